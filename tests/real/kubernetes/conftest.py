"""One API server for all tests of a run; each takes a namespace of its own, and takes back what has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kubernetes import KubeApi, kube_api
from tests.support.parts import require


@pytest.fixture(scope="session")
def kube() -> Iterator[KubeApi]:
    """The API server; whoever kills it starts it again."""
    require("kubernetes")
    with kube_api() as running:
        yield running
