"""Benchmark programs: direct, nginx, Envoy and the sidecar in interleaved rounds of one run.

`python -m benchmarks --quick` from the repository root; see docs/performance.md for what is measured and
how to read it. Linux only (CPU pinning and /proc). Programs, not tests: figures depend on the machine, and
only ratios within one run compare.
"""
