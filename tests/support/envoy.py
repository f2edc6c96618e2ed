"""A real Envoy that runs what Envoy Gateway makes of a plan, over loopback.

    with envoy(folder, translated, secrets, {"up.example": port}) as port: ...

What a cluster would give to it is put in its place: the routes and the secrets that come over xDS, and the addresses of
servers, whose names become loopback.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.process import free_ports, running

Json = dict[str, Any]
PROGRAM = Path(sys.executable).with_name("envoy")


@contextmanager
def envoy(folder: Path, told: Json, secrets: Mapping[str, Json], servers: Mapping[str, int]) -> Iterator[int]:
    """Run Envoy with a configuration of `egctl` and yield its port; `secrets` by what their names end in."""
    port, admin = free_ports(2)
    (dump,) = told["xds"].values()
    parts = {part["@type"].rpartition(".")[2]: part for part in dump["configs"]}
    routes = {
        one["routeConfig"]["name"]: one["routeConfig"] for one in parts["RoutesConfigDump"]["dynamicRouteConfigs"]
    }
    listeners = [one["activeState"]["listener"] for one in parts["ListenersConfigDump"]["dynamicListeners"]]
    clusters = [one["cluster"] for one in parts["ClustersConfigDump"]["dynamicActiveClusters"]]
    (listener,) = [one for one in listeners if "ready" not in one["name"]]
    listener["address"] = _address(port)
    place = _Placing(folder, routes, secrets)
    whole = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": _address(admin)},
        "static_resources": {
            "listeners": [place.placed(listener)],
            "clusters": [
                _local(place.placed(one), servers) for one in clusters if one["name"].startswith("httproute/")
            ],
        },
    }
    file = folder / "envoy.json"
    file.write_text(json.dumps(whole), encoding="utf-8")
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    with running("envoy", [PROGRAM, "-c", file, *options]) as process:
        process.wait_for(lambda: _ready(admin))
        yield port


def _ready(admin: int) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
    with suppress(OSError):
        connection.request("GET", "/ready")
        return "ready" if connection.getresponse().status == 200 else None
    return None


def _address(port: int) -> Json:
    return {"socketAddress": {"address": "127.0.0.1", "portValue": port}}


def _local(cluster: Json, servers: Mapping[str, int]) -> Json:
    for endpoint in cluster["loadAssignment"]["endpoints"]:
        for one in endpoint["lbEndpoints"]:
            name = one["endpoint"]["address"]["socketAddress"]["address"]
            one["endpoint"]["address"] = _address(servers[name])
    kept = {key: value for key, value in cluster.items() if not key.startswith(("dns", "respectDns", "clusterType"))}
    return {**kept, "type": "STATIC"}


class _Placing:
    """Puts routes and secrets where Envoy would ask for them."""

    def __init__(self, folder: Path, routes: Mapping[str, Json], secrets: Mapping[str, Json]) -> None:
        self._folder = folder
        self._routes = routes
        self._secrets = secrets

    def placed(self, part: Any) -> Any:
        """Return a part with everything in it; the type of the whole part is left out."""
        made = self._within(part)
        made.pop("@type", None)
        return made

    def _within(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._within(one) for one in part]
        if not isinstance(part, dict):
            return part
        made = {key: self._within(value) for key, value in part.items()}
        if "rds" in made:
            made["routeConfig"] = self.placed(self._routes[made.pop("rds")["routeConfigName"]])
        if "sdsConfig" in made:
            made["sdsConfig"] = {"path_config_source": {"path": str(self._secret(made["name"]))}, **_V3}
        return made

    def _secret(self, name: str) -> Path:
        (body,) = [body for end, body in self._secrets.items() if name.endswith(end)]
        file = self._folder / f"{name.replace('/', '_')}.json"
        file.write_text(json.dumps({"resources": [{"@type": _SECRET, "name": name, **body}]}), encoding="utf-8")
        return file


_V3 = {"resource_api_version": "V3"}
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
