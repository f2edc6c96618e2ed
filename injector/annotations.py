"""Pure: what a pod says about its sidecar, in annotations under `openmcp.dev/`.

Whoever writes a pod may write these, so each is harmless or bounded by the settings: `image` by `trust.images`,
`config` by `trust.configMaps`, `spiffe-volume` by the one driver and the one folder of `sidecar.spiffe`.
"""

import re
from collections.abc import Mapping
from typing import Literal, cast

import msgspec

from openmcp.config.cursor import shortened
from openmcp.config.problems import did_you_mean
from openmcp.config.values import is_name, path_fault
from openmcp.injector import references
from openmcp.injector.settings import Resources, Settings

PREFIX = "openmcp.dev/"
INJECT = PREFIX + "inject"
INJECTED = PREFIX + "injected"
"""A label that we write; the registration of SPIFFE IDs selects pods by it."""
STATUS = PREFIX + "status"
"""An annotation that we write, for people: what was put in."""

KNOWN = (
    "inject",
    "config",
    "servers",
    "image",
    "cpu",
    "cpu-limit",
    "memory",
    "memory-limit",
    "log-level",
    "spiffe-volume",
    "native-sidecar",
    "exclude-containers",
    "status",
)

_MOST = 4096
"""Characters of one annotation."""

Volume = Literal["csi", "host-path", "none"]


class Server(msgspec.Struct, frozen=True):
    """An MCP server that the agent is told of, and its path on the sidecar's listener."""

    name: str
    path: str

    @property
    def variable(self) -> str:
        """`OPENMCP_<NAME>_URL`: the name in capitals, `_` for what a variable cannot have."""
        return f"OPENMCP_{re.sub('[^A-Z0-9]', '_', self.name.upper())}_URL"


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, and what the settings say where nothing was."""

    image: str
    native: bool
    volume: Volume
    resources: Resources
    log_level: str | None = None
    """None: what the configuration of the sidecar says."""
    config: str | None = None
    """The name of a ConfigMap in the pod's namespace."""
    servers: tuple[Server, ...] = ()
    excluded: tuple[str, ...] = ()
    """Containers that are not told of servers."""


class Annotations:
    """The annotations of one pod; reading them gathers what is wrong in `faults`, what is odd in `warnings`."""

    def __init__(self, given: Mapping[str, str], settings: Settings, namespace: str) -> None:
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self._settings = settings
        self._namespace = namespace
        self._given: dict[str, str] = {}
        for key in sorted(key for key in given if key.startswith(PREFIX)):
            self._take(key.removeprefix(PREFIX), given[key])

    def _take(self, name: str, text: str) -> None:
        if name not in KNOWN:
            near = did_you_mean(name, KNOWN) or "it has no effect"
            self.warnings.append(f"unknown annotation {PREFIX}{shortened(name)}: {near}")
        elif len(text) > _MOST:
            self._fault(name, f"longer than {_MOST} characters")
        else:
            self._given[name] = text.strip()

    def _fault(self, name: str, why: str) -> None:
        self.faults.append(f"{PREFIX}{name}: {why}")

    def choices(self) -> Choices:
        """All of them; to be used while `faults` is empty."""
        ours = self._settings.sidecar
        return Choices(
            image=self._image(),
            native=(self._word("native-sidecar", ("true", "false")) or str(ours.native).lower()) == "true",
            volume=cast(Volume, self._word("spiffe-volume", ("csi", "host-path")) or ours.spiffe.volume),
            log_level=self._word("log-level", ("debug", "info", "warning", "error")) or ours.log_level,
            resources=self._resources(),
            config=self._config(),
            servers=self._servers(),
            excluded=self._excluded(),
        )

    def _word(self, name: str, known: tuple[str, ...]) -> str | None:
        text = self._given.get(name)
        if text is not None and text not in known:
            self._fault(name, f'unknown value "{shortened(text)}", one of: {", ".join(known)}')
        return text

    def _image(self) -> str:
        default = self._settings.sidecar.image
        text = self._given.get("image", default)
        wanted = references.image(text)
        if wanted is None:
            self._fault("image", f'not an image: "{shortened(text)}"')
            return default
        if text != default and not references.permits(self._settings.trust.images, wanted.repository):
            self._fault(
                "image", f"{shortened(wanted.repository)} is not a repository that the injector's trust.images allows"
            )
        return text

    def _config(self) -> str | None:
        name = self._given.get("config")
        if name is None:
            return None
        if not references.is_subdomain(name):
            self._fault("config", f'not the name of a ConfigMap: "{shortened(name)}"')
        elif not {f"{self._namespace}/{name}", f"*/{name}"} & set(self._settings.trust.config_maps):
            self._fault("config", f"{self._namespace}/{name} is not in the injector's trust.configMaps")
        return name

    def _resources(self) -> Resources:
        ours = self._settings.sidecar.resources
        cpu, cpu_limit = self._pair("cpu", ours.cpu, ours.cpu_limit)
        memory, memory_limit = self._pair("memory", ours.memory, ours.memory_limit)
        return Resources(cpu=cpu, cpu_limit=cpu_limit, memory=memory, memory_limit=memory_limit)

    def _pair(self, name: str, request: str, limit: str | None) -> tuple[str, str | None]:
        """A request and its limit; where only one is written, the other follows it rather than contradicts it."""
        request_given, limit_given = self._quantity(name), self._quantity(f"{name}-limit")
        request, limit = request_given or request, limit_given or limit
        if limit is None or references.at_most(request, limit):
            return request, limit
        if request_given and limit_given:
            self._fault(f"{name}-limit", f"{limit} is less than {PREFIX}{name}, {request}")
        return (request, request) if request_given else (limit, limit)

    def _quantity(self, name: str) -> str | None:
        text = self._given.get(name)
        if text is not None and references.quantity(text) is None:
            self._fault(name, f'not a quantity: "{shortened(text)}", such as 100m or 128Mi')
            return None
        return text

    def _servers(self) -> tuple[Server, ...]:
        found: dict[str, Server] = {}
        for item in self._list("servers"):
            server = self._server(item)
            if server is None:
                continue
            if server.variable in found:
                self._fault("servers", f"{found[server.variable].name} and {server.name} are both {server.variable}")
            found[server.variable] = server
        return tuple(found.values())

    def _server(self, item: str) -> Server | None:
        name, equals, path = (part.strip() for part in item.partition("="))
        if not is_name(name):
            self._fault("servers", f'not the name of a server: "{shortened(name)}"')
            return None
        fault = path_fault(path) if equals else None
        if fault is not None:
            self._fault("servers", f'not a path: "{shortened(path)}", {fault}')
            return None
        return Server(name, path if equals else f"/{name}")

    def _excluded(self) -> tuple[str, ...]:
        names = self._list("exclude-containers")
        for name in names:
            if not references.is_label(name):
                self._fault("exclude-containers", f'not the name of a container: "{shortened(name)}"')
        return names

    def _list(self, name: str) -> tuple[str, ...]:
        """`a, b`: the parts that are not empty; a comma at the end does no harm."""
        parts = (part.strip() for part in self._given.get(name, "").split(","))
        return tuple(part for part in parts if part)
