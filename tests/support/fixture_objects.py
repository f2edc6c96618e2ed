"""The objects of tests/fixtures/objects, good and bad, and what `validate` says of them.

`good` is accepted everywhere; `refused` is refused by the API server and by `validate`; `later` is accepted by the API
server, which cannot know better, and refused by `validate`, and so by the status writer and by sidecars.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from openmcp.config import ConfigurationError, load

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "objects"


def files(kind: str) -> list[Path]:
    """The files of one kind, in the order of their names."""
    return sorted((FOLDER / kind).glob("*.yaml"))


def objects(file: Path) -> list[dict[str, Any]]:
    """The objects of a file as they are sent."""
    return list(yaml.safe_load_all(file.read_text()))


def offline(file: Path) -> list[str]:
    """The errors that `validate` has of a file, without the file's name; empty where it accepts it."""
    try:
        load(file)
    except ConfigurationError as error:
        return [re.sub(rf"^{re.escape(str(file))}:", "", str(problem)) for problem in error.problems]
    return []
