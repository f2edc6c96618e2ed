"""`openmcp init`: the files to begin with."""

from importlib import resources
from pathlib import Path

FILES = {
    "gateway.yaml": "gateway.yaml",
    "sample_server.py": "sample_server.py",
    "tests/policy.yaml": "policy_tests.yaml",  # a folder of its own: all *.yaml of one folder may be a configuration
}
"""The files, and the templates that they are copies of."""


class AlreadyThere(Exception):
    """Files that would have been overwritten; nothing was written."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        super().__init__(f"already there: {', '.join(map(str, files))}")


def write(folder: Path) -> list[Path]:
    """Write a configuration that validates, a sample MCP server and tests of the policies into `folder`.

    The folder is made where it is missing.

    Raises AlreadyThere before anything is written, OSError where the folder cannot be written to.
    """
    targets = [folder / name for name in FILES]
    present = [target for target in targets if target.exists() or target.is_symlink()]
    if present:
        raise AlreadyThere(present)
    templates = resources.files("openmcp.config") / "templates"
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    for target, template in zip(targets, FILES.values(), strict=True):
        with target.open("x", encoding="utf-8") as stream:
            stream.write((templates / template).read_text(encoding="utf-8"))
    return targets
