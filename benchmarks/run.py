"""The command: options, order of the scenarios, report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from benchmarks.bench import FULL, QUICK, SMOKE, Bench, Scale, say, upstream
from benchmarks.load import Load
from benchmarks.processes import BenchmarkError, Cpus
from benchmarks.results import Section, goal_rows, missed, table
from benchmarks.scenarios import footprint, growth, http2, inspection, large, latency, streams, throughput
from benchmarks.tools import Tools, find_tools, install_envoy, own_command

SCENARIOS: dict[str, Callable[[Bench], list[Section]]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "footprint": footprint.run,
    "streams": streams.run,
    "rules": growth.rules,
    "inspection": inspection.run,
    "large": large.run,
    "http2": http2.run,
    "memory": growth.memory,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 when a goal is missed under --assert, or 3 when something could not be measured."""
    options = _options(arguments)
    try:
        if options.install:
            install_envoy()
        facts, sections, failed = _run(options)
    except BenchmarkError as e:
        print(f"no figures: {e}", file=sys.stderr)
        return 3
    figures = {key: value for section in sections for key, value in section.figures.items()}
    print(_report(facts, sections, figures))
    if options.json:
        data = {"facts": facts, "figures": figures, "sections": [asdict(section) for section in sections]}
        Path(options.json).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    for text in failed:
        print(text, file=sys.stderr)
    if failed:
        return 3
    return 1 if options.check and missed(figures) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const=QUICK, dest="scale", help="a few minutes (default)")
    size.add_argument("--smoke", action="store_const", const=SMOKE, dest="scale", help="does it run; no true figures")
    size.add_argument("--full", action="store_const", const=FULL, dest="scale", help="about twenty minutes")
    parser.set_defaults(scale=QUICK)
    for field in fields(Scale):
        kind = float if field.name == "seconds" else int
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, help=f"instead of the size's {field.name}")
    parser.add_argument("--only", type=_chosen, default=list(SCENARIOS), help="comma list of " + ", ".join(SCENARIOS))
    parser.add_argument("--json", metavar="FILE", help="write everything, raw samples too")
    parser.add_argument("--assert", action="store_true", dest="check", help='exit 1 when an "at least" is missed')
    parser.add_argument(
        "--install", action="store_true", help="first install Envoy into a virtual environment of its own"
    )
    parser.add_argument(
        "--sidecar", metavar="COMMAND", help="instead of this checkout's; {config} is the configuration"
    )
    return parser.parse_args(arguments)


def _chosen(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return names


def _run(options: argparse.Namespace) -> tuple[dict[str, str], list[Section], list[str]]:
    """Facts, tables, and what could not be measured; one failing scenario does not take the others with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand streams are three thousand sockets
    given = {f.name: getattr(options, f.name) for f in fields(Scale) if getattr(options, f.name) is not None}
    scale = replace(options.scale, **given)
    command = shlex.split(options.sidecar) if options.sidecar else own_command()
    cpus, load = Cpus.choose(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="openmcp-bench-") as directory:
        work = Path(directory)
        tools = find_tools(work)
        with upstream(tools, cpus.load) as port:
            bench = Bench(scale, tools, cpus, work, command, port, Load(tools, cpus.load, work))
            sections: list[Section] = []
            failed: list[str] = []
            for name in options.only:
                say(name)
                try:
                    sections += SCENARIOS[name](bench)
                except (BenchmarkError, OSError) as e:
                    failed.append(f"{name}: no figures: {e}")
        facts = {**_facts(tools, cpus, scale), "before": f"load average {load:.1f} of other work"}
        return facts, sections, failed


def _facts(tools: Tools, cpus: Cpus, scale: Scale) -> dict[str, str]:
    """What a reader needs to judge the figures."""
    shared = "" if cpus.proxy != cpus.load else " (the same: only one CPU here, so throughput figures mean little)"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "command": "python -m benchmarks " + shlex.join(sys.argv[1:]),
        "machine": f"{_processor()}, {platform.system()} {platform.release()}",
        "pinned": f"proxy on CPU {cpus.proxy}, load and upstream on CPU {cpus.load}{shared}",
        "versions": ", ".join(f"{name} {text}" for name, text in tools.versions().items()),
        "scale": ", ".join(f"{key} {value:,}" for key, value in asdict(scale).items()),
        "missing": "; ".join(tools.missing()) or "nothing",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _report(facts: dict[str, str], sections: Sequence[Section], figures: dict[str, float]) -> str:
    parts = ["\n".join(f"- {key}: {text}" for key, text in facts.items())]
    parts.append(
        "Medians of interleaved rounds. Only ratios within this run compare; CPU per call is the steady figure."
    )
    for section in sections:
        parts.append(f"### {section.title}\n\n{section.note}\n\n{table(section.columns, section.rows)}")
    if figures:
        columns = ("goal", "measured", "at least", "aim", "met")
        parts.append(f"### Goals\n\n{table(columns, goal_rows(figures))}")
    return "\n\n".join(parts) + "\n"
