"""What holds for all tests."""

import pytest
from hypothesis import settings

from openmcp.sidecar.mcp import jsonrpc

# A time limit per example would make a busy machine look like a fault.
settings.register_profile("openmcp", deadline=None)
settings.load_profile("openmcp")


COMPILED = not jsonrpc.__file__.endswith(".py")
"""Whether the wheel that is shipped is tested (`make test-wheel`): its modules are C, see .ci/wheel.py."""

# Its server stands in for methods of the network, which compiled code calls without looking them up.
collect_ignore = ["stages", "inspection/test_surfaces.py"] if COMPILED else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot be asked of compiled modules."""
    if COMPILED:
        for item in items:
            if "monkeypatch" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="patches constants, which the compiler has inlined"))
