"""`openmcp init`: the files to begin with, for the place where they are to run."""

from importlib import resources
from pathlib import Path
from typing import Final

Profile = tuple[tuple[str, str], ...]
"""Files, and the templates that they are copies of."""

_GATEWAY = ("gateway.yaml", "gateway.yaml")
_TESTS = ("tests/policy.yaml", "policy_tests.yaml")  # a folder of its own: all *.yaml of one may be a configuration
PROFILES: Final[dict[str, Profile]] = {
    "local": (
        _GATEWAY,
        ("sample_server.py", "sample_server.py"),
        ("call.py", "call.py"),
        _TESTS,
    ),
    "vm": (_GATEWAY, ("openmcp.service", "openmcp.service"), _TESTS),
    "kubernetes": (
        ("objects/governance.yaml", "governance.yaml"),
        _GATEWAY,
        ("namespace.yaml", "namespace.yaml"),
        ("values.yaml", "values.yaml"),
        _TESTS,
    ),
    "gateway": (_GATEWAY, _TESTS),
}
DEFAULT: Final = "local"


class AlreadyThere(Exception):
    """Files that would have been overwritten; nothing was written."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        super().__init__(f"already there: {', '.join(map(str, files))}")


def write(folder: Path, profile: str = DEFAULT) -> list[Path]:
    """Write the files of one of `PROFILES` into `folder`: a configuration that validates, tests of the policies, more.

    The folder is made where it is missing.

    Raises AlreadyThere before anything is written, OSError where the folder cannot be written to.
    """
    targets = [folder / name for name, _ in PROFILES[profile]]
    present = [target for target in targets if target.exists() or target.is_symlink()]
    if present:
        raise AlreadyThere(present)
    templates = resources.files("openmcp.config") / "templates" / profile
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    for target, (_, template) in zip(targets, PROFILES[profile], strict=True):
        with target.open("x", encoding="utf-8") as stream:
            stream.write((templates / template).read_text(encoding="utf-8"))
    return targets
