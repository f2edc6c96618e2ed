"""The running servers of the matrix, each with a sidecar in front."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.plans import Routes, Upstream
from tests.support.parts import require, sdk_environment
from tests.support.process import allow_all, mcp_server, sidecar


@pytest.fixture(scope="module")
def routes(request: pytest.FixtureRequest) -> Iterator[Routes]:
    """A running server: what it is, its URL, and its URL through a sidecar that allows everything."""
    upstream: Upstream = request.param
    require(*upstream.parts)
    environment = sdk_environment() if upstream.parts else {}
    with (
        mcp_server(upstream.name, upstream.command(), environment) as url,
        sidecar(allow_all(upstream=url)) as gateway,
    ):
        yield upstream, url, f"{gateway.url}/upstream"
