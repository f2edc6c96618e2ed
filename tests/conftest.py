"""What holds for all tests."""

import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from openmcp.sidecar.mcp import jsonrpc

# A time limit per example would make a busy machine look like a fault.
settings.register_profile("openmcp", deadline=None)
settings.load_profile("openmcp")


COMPILED = not jsonrpc.__file__.endswith(".py")
"""Whether the wheel that is shipped is tested (`make test-wheel`): its modules are C, see .ci/wheel.py."""


ROOT = Path(__file__).resolve().parent.parent


def inlined(target: object, name: str) -> bool:
    """Whether compiled code would not see another value: constants, functions and classes of its modules are inlined,
    methods of its classes called as C functions."""
    place = target if isinstance(target, ModuleType | type) else type(target)
    module = place if isinstance(place, ModuleType) else sys.modules[place.__module__]
    if not module.__name__.startswith("openmcp.") or str(module.__file__).endswith(".py"):
        return False
    if place is not module:
        return True
    source = ROOT.joinpath(*module.__name__.split(".")[1:]).with_suffix(".py").read_text()
    return re.search(rf"^(async def|class|def) {name}\b|^{name}: Final\b", source, re.M) is not None


@pytest.fixture
def monkeypatch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Skips the test where what it replaces would not be looked up in compiled modules."""
    if COMPILED:
        replace = monkeypatch.setattr

        def checked(target: Any, name: Any, *rest: Any, **options: Any) -> None:
            place, attribute = (target, name) if rest else _named(target)
            if inlined(place, attribute):
                pytest.skip(f"replaces {attribute}, which the compiler has inlined")
            replace(target, name, *rest, **options)

        monkeypatch.setattr = checked
    return monkeypatch


def _named(path: str) -> tuple[object, str]:
    """What a dotted path names: the owner and its attribute."""
    owner, _, attribute = path.rpartition(".")
    return pkgutil.resolve_name(owner), attribute
