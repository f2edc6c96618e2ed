"""What holds for all tests."""

from typing import Any

import pytest
from hypothesis import settings

from tests.support.inlined import COMPILED, inlined, named

# A time limit per example would make a busy machine look like a fault.
settings.register_profile("openmcp", deadline=None)
settings.load_profile("openmcp")


@pytest.fixture
def monkeypatch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Skips the test where what it replaces would not be looked up in compiled modules."""
    if COMPILED:
        replace = monkeypatch.setattr

        def checked(target: Any, name: Any, *rest: Any, **options: Any) -> None:
            place, attribute = (target, name) if rest else named(target)
            if inlined(place, attribute):
                pytest.skip(f"replaces {attribute}, which the compiler has inlined")
            replace(target, name, *rest, **options)

        monkeypatch.setattr = checked
    return monkeypatch
