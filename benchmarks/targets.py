"""What is compared: nothing in between, nginx, Envoy, and the sidecar, each a plain forwarder of one path."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.large import LARGE_PATH, TOOLS
from benchmarks.processes import BenchmarkError, Server, Usage, free_port
from benchmarks.wire import PATH, TOOL, WATCH, answers, get

DIRECT, NGINX, ENVOY, SIDECAR = "direct", "nginx", "envoy", "sidecar"
GOVERNED = "sidecar, policy"
"""With a policy as one would write it: conditions on arguments, inspection of what comes back, a signed record."""
AUDIT_KEPT = 64 << 20  # bytes; more is cut off between measurements


@dataclass(frozen=True)
class Target:
    """Something that answers on `port`. `server` is None for the upstream itself."""

    name: str
    port: int
    server: Server | None = None
    audit: Path | None = None
    start_seconds: float = 0.0

    def usage(self) -> Usage:
        """CPU and memory of the proxy; zero for none."""
        return self.server.usage() if self.server else Usage(0.0, 0)

    def tidy(self) -> None:
        """Between measurements: a record that has grown large is cut off, or a long run would fill the disk."""
        if self.audit and self.audit.stat().st_size > AUDIT_KEPT:
            os.truncate(self.audit, 0)

    def stop(self) -> None:
        """Ends the proxy and removes its record."""
        if self.server:
            self.server.stop()
        if self.audit:
            self.audit.unlink(missing_ok=True)


@dataclass(frozen=True)
class Place:
    """Where a target runs: an empty directory, a CPU, and the upstream's port."""

    work: Path
    cpu: int
    upstream: int


def nginx(place: Place, program: str) -> Target:
    """nginx, one worker, keep-alive on both sides, no buffering of answers, no log."""
    port, home = free_port(), _home(place, NGINX)
    config = home / "nginx.conf"
    config.write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream stub {{ server 127.0.0.1:{place.upstream}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
    )
    command = [program, "-p", str(home), "-e", f"{home}/error.log", "-c", str(config)]
    return _started(NGINX, port, Server(command, place.cpu, home / "log"), lambda: answers(port))


def envoy(place: Place, program: str) -> Target:
    """Envoy, one worker thread, one route to one cluster, no access log, its limits out of the way."""
    port, home = free_port(), _home(place, ENVOY)
    config = home / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, place.upstream)))
    command = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return _started(ENVOY, port, Server(command, place.cpu, home / "log"), lambda: answers(port))


def envoy_config(port: int, upstream: int) -> dict[str, object]:
    """A static bootstrap (Envoy's v3 API) that forwards everything."""
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "stream_idle_timeout": "3600s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "stub", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    most = {"max_connections": 100000, "max_requests": 100000, "max_pending_requests": 100000}
    cluster = {
        "name": "stub",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": "stub",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket_address(upstream)}}]}],
        },
    }
    listener = {
        "address": _socket_address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@dataclass(frozen=True)
class Setup:
    """What a sidecar is set up with: `rules` (2 or more) request rules, half of them globs that deny, one allows the
    load; `conditions` on arguments; `inspect`: ten detectors and five patterns; `signed`: a key for the record.

    `large` is the port of a server that gives large results.
    """

    rules: int = 2
    conditions: bool = False
    inspect: bool = False
    signed: bool = False
    large: int = 0


PLAIN = Setup()
FULL = Setup(conditions=True, inspect=True, signed=True)


def sidecar(place: Place, command: Sequence[str], setup: Setup = PLAIN, name: str = SIDECAR) -> Target:
    """The sidecar, complete: identity `none`, a policy, the record to a file.

    `command` starts it; `{config}` in it stands for the configuration's path. Ready is what /readyz says.
    Raises BenchmarkError when a call passes and no record of it is written.
    """
    port, admin, home = free_port(), free_port(), _home(place, name)
    audit, config = home / "audit.jsonl", home / "gateway.yaml"
    if setup.signed:
        (home / "audit.pem").write_bytes(_key())
    config.write_text(sidecar_config(port, admin, place.upstream, audit, setup))
    server = Server([word.format(config=config) for word in command], place.cpu, home / "log")
    target = _started(name, port, server, lambda: get(admin, "/readyz") == 200)
    _expect(target, lambda: answers(port))
    _expect(target, lambda: audit.exists() and audit.stat().st_size > 0)
    return Target(name, port, server, audit, target.start_seconds)


def sidecar_config(port: int, admin: int, upstream: int, audit: Path, setup: Setup) -> str:
    """gateway.yaml."""
    when = f", when: {json.dumps(CONDITIONS)}" if setup.conditions else ""
    fillers = "\n".join(_filler(number, when) for number in range(setup.rules - 2))
    servers = [{"name": "bench", "path": PATH, "endpoints": [f"http://127.0.0.1:{upstream}{PATH}"]}]
    if setup.large:
        servers += [{"name": "large", "path": LARGE_PATH, "endpoints": [f"http://127.0.0.1:{setup.large}{LARGE_PATH}"]}]
    servers = [{**server, "limits": {"inFlight": 8192}} for server in servers]
    record: dict[str, object] = {"output": {"file": str(audit)}}
    if setup.signed:
        record["signingKey"] = {"file": str(audit.with_name("audit.pem"))}
    return f"""apiVersion: openmcp.dev/v1alpha1
listen: {{mcp: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}"}}
identity:
  agents: [{{type: none}}]
servers: {json.dumps(servers)}
policies:
  - name: baseline
    servers: ["*"]
    requests:
      - {{name: no-destructive, tools: ["delete_*", "merge_*"], action: deny, message: "destructive tools are off"}}
    responses: {json.dumps(RESPONSES if setup.inspect else [])}
  - name: agents
    agents: ["anonymous"]
    servers: ["*"]
    requests:
      - {{name: load, tools: [{TOOL}], action: allow{when}}}
      - {{name: other-load, tools: [{WATCH}, {", ".join(TOOLS)}], action: allow}}
{fillers}
telemetry:
  audit: {json.dumps(record)}
"""


CONDITIONS = [
    {"path": "$.city", "op": "matches", "value": "[A-Za-z .-]{1,64}"},
    {"path": "$.units", "op": "in", "value": ["metric", "imperial"]},
    {"path": "$.days", "op": "lte", "value": 14},
]
RESPONSES = [
    {"name": "secrets", "detect": ["private_key", "aws_key", "github_token", "slack_token", "jwt"], "action": "block"},
    {
        "name": "personal",
        "detect": ["credit_card", "us_ssn", "email", "phone", "iban"],
        "patterns": [r"\bCUST-[0-9]{8}\b", r"\b[A-Z]{3}-[0-9]{5}-[A-Z]\b", "(?i)strictly confidential"],
        "action": "redact",
    },
    {"name": "internal", "patterns": [r"\bproject-[a-z]+-internal\b", "X-Api-Key: *[0-9a-f]+"], "action": "redact"},
]


def _filler(number: int, when: str) -> str:
    """A rule that never matches the load: by turns an exact allow, a glob that denies."""
    if number % 2:
        return f'      - {{name: filler-{number}, tools: ["drop_{number}_*"], action: deny{when}}}'
    return f"      - {{name: filler-{number}, tools: [read_{number}], action: allow{when}}}"


def _key() -> bytes:
    """A new Ed25519 key in PEM."""
    pem, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Ed25519PrivateKey.generate().private_bytes(pem, format_, serialization.NoEncryption())


def _home(place: Place, name: str) -> Path:
    home = place.work / f"{name}-{len(list(place.work.iterdir()))}"
    home.mkdir()
    return home


def _started(name: str, port: int, server: Server, ready: Callable[[], bool]) -> Target:
    try:
        return Target(name, port, server, None, server.wait_until(ready))
    except BenchmarkError:
        server.stop()
        raise


def _expect(target: Target, probe: Callable[[], bool]) -> None:
    try:
        assert target.server
        target.server.wait_until(probe)
    except BenchmarkError as e:
        target.stop()
        raise BenchmarkError(f"{target.name} is up, but gives no right answer or no record: {e}") from e


def _socket_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
