"""The way to an API server: over TLS with what a pod has, by a kubeconfig, and through all that may come back."""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from openmcp.config.kubernetes import api as module
from openmcp.config.kubernetes.api import (
    MERGE_PATCH,
    Api,
    ApiError,
    ApiUnreachable,
    NoCluster,
    TooLarge,
    refusal,
    route,
)
from openmcp.config.kubernetes.credentials import Access, InCluster
from tests.fakes.kubernetes_api import Reach, kubernetes_api

PATH = "/apis/openmcp.dev/v1alpha1/namespaces/test/mcppolicies"


class At:
    """Credentials for nobody in particular."""

    namespace = "test"

    def __init__(self, server: str) -> None:
        self.server = server

    async def access(self) -> Access:
        return Access(self.server, None)


class Secured:
    """A server under TLS that says who asked, and what was asked with."""

    def __init__(self, ca: trustme.CA, *, clients: bool = False) -> None:
        self.ca = ca
        self.port = 0
        self.asked: list[dict[str, Any]] = []
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("127.0.0.1", "kubernetes.default").configure_cert(self.context)
        if clients:
            self.context.verify_mode = ssl.CERT_REQUIRED
            ca.configure_trust(self.context)

    async def handle(self, request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        self.asked.append({"authorization": request.headers.get("authorization"), "peer": bool(peer)})
        return web.json_response({"kind": "Thing"})


@asynccontextmanager
async def secured(ca: trustme.CA, *, clients: bool = False) -> AsyncIterator[Secured]:
    server = Secured(ca, clients=clients)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server.context).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


def mounted(folder: Path, ca: trustme.CA, token: str = "first") -> Path:
    """What Kubernetes mounts into a pod."""
    ca.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text(token)
    (folder / "namespace").write_text("support-ai")
    return folder


async def test_in_a_pod_with_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ca = trustme.CA()
    async with secured(ca) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        monkeypatch.setattr(InCluster.__init__, "__defaults__", (mounted(tmp_path, ca),))
        api = Api.find()
        assert api.namespace == "support-ai"
        assert await api.get("/x") == {"kind": "Thing"}
        (tmp_path / "other").write_text("second, which is longer\n")
        (tmp_path / "other").rename(tmp_path / "token")  # as the kubelet does it: another file in its place
        await api.get("/x")
        assert [asked["authorization"] for asked in server.asked] == ["Bearer first", "Bearer second, which is longer"]
        await api.close()


async def test_another_ca_is_taken_from_disk(tmp_path: Path):
    old, new = trustme.CA(), trustme.CA()
    async with secured(new) as server:
        api = Api(InCluster("127.0.0.1", str(server.port), mounted(tmp_path, old)))
        with pytest.raises(ApiUnreachable, match="TLS: unable to get local issuer certificate|TLS: "):
            await api.get("/x")
        assert server.asked == [], "the token is for the API server alone"
        (tmp_path / "ca.crt").unlink()
        new.cert_pem.write_to_path(tmp_path / "ca.crt")
        assert await api.get("/x") == {"kind": "Thing"}
        await api.close()


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("token", None, "No such file or directory"),
        ("token", b"", "empty"),
        ("token", b"\xff", "not plain text"),
        ("namespace", None, "No such file or directory"),
    ],
)
def test_a_pod_without_what_it_takes(tmp_path: Path, file: str, content: bytes | None, why: str):
    mounted(tmp_path, trustme.CA())
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(NoCluster) as error:
        InCluster("127.0.0.1", "1", tmp_path)
    assert str(error.value) == f"{tmp_path / file}: {why}"


async def test_a_token_that_is_gone_is_told_and_comes_back(tmp_path: Path):
    ca = trustme.CA()
    async with secured(ca) as server:
        api = Api(InCluster("127.0.0.1", str(server.port), mounted(tmp_path, ca)))
        (tmp_path / "token").unlink()
        with pytest.raises(ApiUnreachable, match="token: No such file"):
            await api.get("/x")
        (tmp_path / "token").write_text("again")
        await api.get("/x")
        assert [asked["authorization"] for asked in server.asked] == ["Bearer again"]
        await api.close()


async def test_an_address_of_version_6(tmp_path: Path):
    access = await InCluster("fd00::1", "443", mounted(tmp_path, trustme.CA())).access()
    assert access.server == "https://[fd00::1]:443"


def kubeconfig(folder: Path, server: str, user: dict[str, Any], cluster: dict[str, Any], **context: str) -> str:
    file = folder / "kubeconfig"
    made = {
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "x", "context": {"cluster": "c", "user": "u", **context}},
            {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
        ],
        "current-context": "x",
    }
    file.write_text(json.dumps(made))
    return str(file)


async def test_a_kubeconfig_with_a_client_certificate(tmp_path: Path):
    ca = trustme.CA()
    mine = ca.issue_cert("me")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "me.pem")
    mine.private_key_pem.write_to_path(tmp_path / "me.key")
    user = {"client-certificate": str(tmp_path / "me.pem"), "client-key": str(tmp_path / "me.key")}
    async with secured(ca, clients=True) as server:
        url = f"https://127.0.0.1:{server.port}"
        file = kubeconfig(tmp_path, url, user, {"certificate-authority": str(tmp_path / "ca.pem")}, namespace="mine")
        api = Api.from_kubeconfig(file)
        assert (api.namespace, await api.get("/x")) == ("mine", {"kind": "Thing"})
        assert server.asked == [{"authorization": None, "peer": True}]
        assert Api.from_kubeconfig(file, "other").namespace == "elsewhere"
        await api.close()


async def test_a_kubeconfig_with_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin = tmp_path / "plugin.py"
    status = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": "made"}}
    plugin.write_text(f"import json; print(json.dumps({status!r}))")
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }
    async with kubernetes_api() as server:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, f"http://127.0.0.1:{server.port}", user, {}))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        api = Api.find()
        assert (api.namespace, (await api.get(PATH))["items"]) == ("default", [])
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer made"}
        await api.close()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "not: [yaml", "current-context: x"],
    ids=["empty", "list", "nothing", "broken", "no context"],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, text: str):
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(NoCluster, match="the kubeconfig cannot be used"):
        Api.from_kubeconfig(str(tmp_path / "kubeconfig"))


def test_no_kubeconfig_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoCluster, match="the kubeconfig cannot be used"):
        Api.from_kubeconfig(str(tmp_path / "none"))
    with pytest.raises(NoCluster, match="KUBERNETES_SERVICE_HOST is not set"):
        Api.in_cluster()


def test_neither_in_a_pod_nor_with_a_kubeconfig_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NoCluster, match=r"^not in a pod \(KUBERNETES_SERVICE_HOST is not set\), and the kubeconfig"):
        Api.find()


def test_the_official_client_is_not_loaded_in_a_pod():
    code = "import sys, openmcp.config.kubernetes.source; print('kubernetes' in sys.modules, 'aiohttp' in sys.modules)"
    assert os.popen(f'{sys.executable} -c "{code}"').read().split() == ["False", "False"]


@pytest.mark.parametrize("part", ["..", "a/b", "", "a b", "a?x", "%2e%2e", "-a", "a..b", "a" * 254, "ä", "a\n"])
def test_no_value_leads_to_another_path(part: str):
    with pytest.raises(ValueError, match="cannot be part of a path"):
        route("apis", "openmcp.dev", "v1alpha1", "namespaces", part, "mcppolicies")


def test_paths():
    assert route("apis", "openmcp.dev", "v1alpha1", "namespaces", "test", "mcppolicies") == PATH


async def test_objects_are_written():
    async with kubernetes_api() as server:
        api = Api(Reach(server))
        made = await api.create(PATH, {"metadata": {"name": "a"}, "spec": {"n": 1}})
        with pytest.raises(ApiError) as error:
            await api.create(PATH, {"metadata": {"name": "a"}})
        assert (error.value.status, error.value.reason) == (409, "AlreadyExists")
        changed = await api.replace(f"{PATH}/a", {**made, "spec": {"n": 2}})
        with pytest.raises(ApiError, match="409 Conflict"):
            await api.replace(f"{PATH}/a", made)
        status = await api.patch(f"{PATH}/a", {"status": {"ok": True}}, subresource="status")
        assert (status["status"], status["metadata"]["generation"]) == ({"ok": True}, changed["metadata"]["generation"])
        assert server.asked[-1].headers["content-type"] == MERGE_PATCH
        assert (await api.get(f"{PATH}/a"))["spec"] == {"n": 2}
        await api.delete(f"{PATH}/a")
        with pytest.raises(ApiError, match="404 NotFound"):
            await api.get(f"{PATH}/a")
        await api.close()


async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch):
    async with kubernetes_api() as server:
        for number in range(20):
            server.put("MCPPolicy", f"p{number}", {"servers": ["x" * 100]})
        monkeypatch.setattr(module, "LIMIT", 1000)
        monkeypatch.setattr(module, "LINE", 1000)
        api = Api(Reach(server))
        with pytest.raises(TooLarge):
            await api.get(PATH)
        lines = api.stream(PATH, {"watch": "1"})
        waiting = anext(lines)
        server.match = "never"

        async def flood() -> None:
            await server.until(lambda: server.watching == 1)
            server.say(b'{"type": "' + b"x" * 5000)

        with pytest.raises(TooLarge):
            await asyncio.gather(waiting, flood())
        await api.close()


async def test_a_line_that_is_cut_is_none():
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"a":')
        await response.write(b'1}\n\n{"b":2}\n{"c":')
        return response

    application = web.Application()
    application.router.add_get("/x", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(At(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    lines = api.stream("/x", {})
    assert [await anext(lines), await anext(lines)] == [b'{"a":1}', b'{"b":2}']
    with pytest.raises(ApiUnreachable, match="ended within a line"):
        await anext(lines)
    await api.close()
    await runner.cleanup()


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    api = Api(At(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    with pytest.raises(ApiUnreachable, match=r"no answer in 0\.05 s"):
        await api.get("/x")
    with pytest.raises(ApiUnreachable, match=r"no answer in 0\.05 s"):
        await anext(api.stream("/x", {}))
    await api.close()
    server.close()


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        (b'{"reason":"Conflict","message":"m","code":409}', None, (409, "Conflict", "m", None)),
        (b'{"details":{"retryAfterSeconds":3}}', None, (409, "Unknown", "HTTP 409", 3.0)),
        (b'{"details":{"retryAfterSeconds":3}}', "5", (409, "Unknown", "HTTP 409", 5.0)),
        (b"{}", "Wed, 21 Oct 2026 07:28:00 GMT", (409, "Unknown", "HTTP 409", None)),
        (
            b"<html>\xff" + b"x" * 500,
            None,
            (409, "Unknown", ("<html>\xff" + "x" * 193).replace("\xff", "\ufffd"), None),
        ),
        (b"", None, (409, "Unknown", "HTTP 409", None)),
        (b'{"code":"five"}', "-1", (409, "Unknown", '{"code":"five"}', None)),
    ],
)
def test_what_a_refusal_says(body: bytes, header: str | None, expected: tuple[object, ...]):
    error = refusal(409, body, header)
    assert (error.status, error.reason, error.message, error.retry_after) == expected


async def test_tokens_are_not_shown():
    async with kubernetes_api() as server:
        access = await Reach(server).access()
        assert "a-token" not in repr(access) + str(access)
