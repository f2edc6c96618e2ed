"""Official clients of one era and official servers of the other complete the plan, where the sidecar translates.

The plan is that of the matrix, and so is what must come of it: nobody notices that the other one is of another era.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.clients import NodeClient, PythonClient
from tests.interop.plans import LEGACY_ALONE, MODERN_ALONE, Upstream
from tests.interop.test_matrix import LEGACY, MODERN, expected
from tests.support.parts import require, sdk_environment
from tests.support.process import allow_all, mcp_server, sidecar

URL = tuple[Upstream, str]


@pytest.fixture(scope="module")
def translated(request: pytest.FixtureRequest) -> Iterator[URL]:
    """A running server: what it is, and its URL through a sidecar that translates."""
    upstream: Upstream = request.param
    require(*upstream.parts)
    environment = sdk_environment() if upstream.parts else {}
    with mcp_server(upstream.name, upstream.command(), environment) as url:
        config = allow_all(upstream=url)
        config["servers"][0]["translate"] = True
        with sidecar(config) as gateway:
            yield upstream, f"{gateway.url}/upstream"


def upstreams(those: tuple[Upstream, ...]) -> pytest.MarkDecorator:
    """Run a test with each of these."""
    params = [pytest.param(each, id=each.name, marks=[pytest.mark.real] if each.parts else []) for each in those]
    return pytest.mark.parametrize("translated", params, indirect=True)


@upstreams(LEGACY_ALONE)
async def test_the_modern_python_client_with_a_legacy_server(translated: URL) -> None:
    upstream, url = translated
    assert await PythonClient("auto").play(url, upstream) == expected(upstream, MODERN)
    pinned = await PythonClient(MODERN).play(url, upstream)
    assert pinned == [{"connected": {"server": None, "version": MODERN}}, *upstream.report()]


@pytest.mark.real
@upstreams(LEGACY_ALONE)
@pytest.mark.parametrize("mode", ["auto", MODERN])
async def test_the_modern_typescript_client_with_a_legacy_server(translated: URL, mode: str) -> None:
    require("node", "sdk")
    upstream, url = translated
    assert await NodeClient("client-v2.mjs", mode).play(url, upstream) == expected(upstream, MODERN)


@upstreams(MODERN_ALONE)
async def test_the_legacy_python_client_with_a_modern_server(translated: URL) -> None:
    upstream, url = translated
    assert await PythonClient("legacy").play(url, upstream) == expected(upstream, LEGACY)


@pytest.mark.real
@upstreams(MODERN_ALONE)
@pytest.mark.parametrize(("script", "mode"), [("client-v1.mjs", "-"), ("client-v2.mjs", "legacy")])
async def test_the_legacy_typescript_clients_with_a_modern_server(translated: URL, script: str, mode: str) -> None:
    require("node", "sdk")
    upstream, url = translated
    assert await NodeClient(script, mode).play(url, upstream) == expected(upstream, LEGACY)
