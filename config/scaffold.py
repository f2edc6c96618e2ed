"""`openmcp init`: the files to begin with."""

from importlib import resources
from pathlib import Path

FILES = ("gateway.yaml", "sample_server.py")


class AlreadyThere(Exception):
    """Files that would have been overwritten; nothing was written."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        super().__init__(f"already there: {', '.join(map(str, files))}")


def write(folder: Path) -> list[Path]:
    """Write a configuration that validates and a sample MCP server into `folder`, which is made where it is missing.

    Raises AlreadyThere before anything is written, OSError where the folder cannot be written to.
    """
    targets = [folder / name for name in FILES]
    present = [target for target in targets if target.exists() or target.is_symlink()]
    if present:
        raise AlreadyThere(present)
    folder.mkdir(parents=True, exist_ok=True)
    templates = resources.files("openmcp.config") / "templates"
    for target in targets:
        with target.open("x", encoding="utf-8") as stream:
            stream.write((templates / target.name).read_text(encoding="utf-8"))
    return targets
