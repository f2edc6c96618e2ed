"""What the detectors find in text that holds nothing: `python -m benchmarks.false_positives FOLDER...`.

Walks the folders, looks through every file that is UTF-8 text as one text (files above 1 MiB in parts of 1 MiB), and
prints, for each detector, how often it found something, per MiB, and samples with what stands around them. The finds of
text that does hold addresses, numbers and keys are no false ones: the samples are there to be read.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from openmcp.config.detectors import DETECTORS
from openmcp.sidecar.detection.finder import Finder

MIB = 1024 * 1024
AROUND = 30
SKIPPED = frozenset((".git", "__pycache__", ".mypy_cache", ".ruff_cache"))


def files(folders: list[Path]) -> Iterator[Path]:
    """Every file below the folders, once, in order of names."""
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if not path.is_symlink() and path.is_file() and SKIPPED.isdisjoint(path.parts):
                yield path


def texts(path: Path) -> Iterator[str]:
    """The text of a file in parts; nothing for what is none."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return
    if "\0" not in text:
        yield from (text[start : start + MIB] for start in range(0, len(text), MIB))


def shown(text: str, start: int, end: int) -> str:
    """A find with its surroundings, on one line."""
    return repr(f"{text[max(0, start - AROUND) : start]}»{text[start:end][:80]}«{text[end : end + AROUND]}")


def main() -> None:
    """Count and print."""
    options = argparse.ArgumentParser(description="what the detectors find in text that holds nothing")
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--detect", default=",".join(DETECTORS), help="names of detectors, separated by commas")
    options.add_argument("--samples", type=int, default=10, help="samples of each detector")
    asked = options.parse_args()
    finder = Finder(asked.detect.split(","), [])
    counts: Counter[str] = Counter()
    holding: Counter[str] = Counter()
    samples: dict[str, list[str]] = {}
    read = size = 0
    begun = time.perf_counter()
    for path in files(asked.folders):
        here: Counter[str] = Counter()
        for text in texts(path):
            size += len(text.encode())
            for span in finder.spans(text):
                here[span.what] += 1
                samples.setdefault(span.what, []).append(f"{path.name}: {shown(text, span.start, span.end)}")
            read += 1
        counts += here
        holding.update(here.keys())
    took = time.perf_counter() - begun
    print(f"{read} texts, {size / MIB:.1f} MiB, {took:.1f} s")
    chosen = random.Random(0)
    for what in sorted({*counts, *asked.detect.split(",")}):
        print(
            f"{what:16}{counts[what]:8} finds {counts[what] * MIB / max(1, size):10.3f} per MiB {holding[what]:6} files"
        )
        known = samples.get(what, [])
        for sample in chosen.sample(known, min(asked.samples, len(known))):
            print(f"    {sample}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
