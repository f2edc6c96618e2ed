"""Fuzz for as long as is asked, guided by coverage: python -m tests.fuzz.run --seconds 60 [TARGET ...]

Needs atheris, which the project does not depend on: `make soak` installs it into an environment of its own. Each
target gets an equal part of the time and a process of its own. Exit code 1 where a fault was found; the input that
shows it is then in the folder named by --artifacts, and `--reproduce FILE TARGET` runs it alone.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 60
"""Seconds after which one input counts as a hang: most take less than a millisecond, but a busy machine pauses."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="listener, http2, upstream, events, messages, credentials (default: all)",
    )
    parser.add_argument("--seconds", type=int, default=60, help="how long in all (default: 60)")
    parser.add_argument("--artifacts", type=Path, default=Path("build/fuzz"), help="where faults and corpora are kept")
    parser.add_argument("--reproduce", type=Path, help="run one input and stop")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.targets[0], options.seconds, options.artifacts)
        return 0
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown target: {', '.join(sorted(unknown))}")
    if options.reproduce is not None:
        TARGETS[names[0]](options.reproduce.read_bytes())
        return 0
    each = max(1, options.seconds // len(names))
    return max(start(name, each, options.artifacts) for name in names)


def start(name: str, seconds: int, artifacts: Path) -> int:
    """Fuzz one target in a process of its own; 1 where it found something."""
    print(f"=== {name}: {seconds} s", flush=True)
    options = ["--child", "--seconds", str(seconds), "--artifacts", str(artifacts), name]
    return int(subprocess.run([sys.executable, "-m", "tests.fuzz.run", *options], check=False).returncode != 0)


def fuzz(name: str, seconds: int, artifacts: Path) -> None:
    """Fuzz in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["openmcp.sidecar.net", "openmcp.sidecar.mcp", "httptools"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    logging.disable(logging.CRITICAL)
    corpus = artifacts / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="openmcp-fuzz-") as seeds:
        for number, seed in enumerate(SEEDS[name]):
            (Path(seeds) / str(number)).write_bytes(seed)
        arguments = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT}", "-max_len=3000", "-rss_limit_mb=1024"]
        arguments += [f"-artifact_prefix={artifacts}/{name}-", "-print_final_stats=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *arguments, str(corpus), seeds], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
