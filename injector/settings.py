"""What the operator of the injector decides, from a small YAML file: which sidecar goes into pods, and whom to trust.

Nothing here can be said by the pods themselves; what they may say is in `annotations`.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from openmcp.config import ConfigurationError
from openmcp.config.addresses import address, reached
from openmcp.config.cursor import At, Reading, Shape, boolean, choice, integer, list_of, shortened, string, tagged
from openmcp.config.load import read_documents
from openmcp.config.model import Address
from openmcp.config.problems import Mark, Report, in_order
from openmcp.config.values import duration, file_name
from openmcp.config.yamlsource import Scalar, read
from openmcp.injector import references

CONTAINER = "openmcp"
"""The name of the sidecar's container; volumes of ours begin with it and a dash."""

NEVER = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces that no pod is changed in, whatever the settings say; the injector's own comes to them."""

DAY = 86400.0

T = TypeVar("T")

_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}")


class Spiffe(msgspec.Struct, frozen=True, kw_only=True):
    """How the socket of the Workload API comes into the sidecar: `<mount>/<socket>`; `none`: it does not."""

    volume: Literal["csi", "host-path", "none"] = "csi"
    driver: str = "csi.spiffe.io"
    directory: str = "/run/spire/agent-sockets"
    """The folder of the socket on the node, for `host-path`; and what no container of the agent may mount."""
    socket: str = "spire-agent.sock"


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Quantities as Kubernetes writes them; None: no limit."""

    cpu: str = "50m"
    cpu_limit: str | None = None
    memory: str = "128Mi"
    memory_limit: str | None = "256Mi"


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """The container that goes into pods."""

    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    native: bool = True
    run_as_user: int | None = 65532
    """None: left to the cluster, as OpenShift wants it."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """None: what the sidecar's own configuration says."""
    port: int = 15001
    """Where the configuration in the image, or in a ConfigMap, listens for the agent, on loopback."""
    admin: Address = Address(host="0.0.0.0", port=15020)  # noqa: S104 - the kubelet probes the pod's own address
    resources: Resources = Resources()
    spiffe: Spiffe = Spiffe()
    api_server: Address | None = None
    """What the sidecar is told to be the API server; None: what the kubelet tells it."""


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What developers of agents may choose by annotation, beyond what cannot weaken anything."""

    images: tuple[str, ...] = ()
    """Repositories, in any version, or `registry/path/*`, besides `sidecar.image` as it is."""
    config_maps: tuple[str, ...] = ()
    """`NAMESPACE/NAME`, `*/NAME` for every namespace: whoever may write such a ConfigMap governs its pods."""
    dns: bool = False
    """Whether governed pods may have their own hostAliases, nameservers and search domains."""
    env: tuple[str, ...] = ()
    """Variables that another webhook may add to the sidecar, such as AWS_ROLE_ARN."""
    mounts: tuple[str, ...] = ()
    """Paths at which another webhook may mount volumes of its own into the sidecar."""
    host_paths: tuple[str, ...] = ()
    """Folders of the node that containers of agents may mount, with all below; none, where nothing is said."""
    capabilities: tuple[str, ...] = ()
    """Beyond those that Pod Security's `baseline` allows, such as NET_ADMIN for the init container of a mesh."""


class BuiltInTls(msgspec.Struct, frozen=True, kw_only=True):
    """A CA of our own, in a Secret that all replicas share."""

    secret: str = "openmcp-injector-ca"  # noqa: S105 - the name of a Secret
    lease: str = "openmcp-injector-ca"
    webhook: str = "openmcp-injector"
    """The MutatingWebhookConfiguration whose caBundle is kept."""
    lifetime: float = 90 * DAY
    """Of a certificate and its CA, in seconds; a successor is made when a third of it is left."""


class FilesTls(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and key that somebody else, such as cert-manager, writes and renews."""

    certificate: str
    key: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    sidecar: Sidecar
    listen: Address = Address(host="0.0.0.0", port=8443)  # noqa: S104 - the API server connects from elsewhere
    admin: Address = Address(host="0.0.0.0", port=15020)  # noqa: S104 - as do the kubelet and Prometheus
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    namespace: str | None = None
    """The injector's own; None: that of its pod."""
    excluded_namespaces: tuple[str, ...] = ()
    """Beside `NEVER` and the injector's own."""
    tls: BuiltInTls | FilesTls = BuiltInTls()
    status_lease: str = "openmcp-status"
    """Whoever of the replicas holds it writes the conditions of our objects."""
    trust: Trust = Trust()

    def excludes(self, namespace: str) -> bool:
        """Whether pods of a namespace are left alone."""
        return namespace in (*NEVER, *self.excluded_namespaces, self.namespace)


def _such(fault: str, is_good: Callable[[str], bool], hint: str) -> Reading[str]:
    def read_text(at: At) -> str | None:
        value = string(at)
        if value is not None and not is_good(value):
            at.error(f'not {fault}: "{shortened(value)}"', hint)
            return None
        return value

    return read_text


def _is_folder(text: str) -> bool:
    return re.match("/[^/]", text) is not None and os.path.normpath(text) == text and ":" not in text


def _is_config_map(text: str) -> bool:
    namespace, slash, name = text.partition("/")
    return bool(slash) and (namespace == "*" or references.is_label(namespace)) and references.is_subdomain(name)


_name = _such("a name", references.is_subdomain, "a-z, 0-9, - and .")
_namespace = _such("a namespace", references.is_label, "a-z, 0-9 and -, at most 63 characters")
_folder = _such("a folder", _is_folder, "an absolute path that is written in one way only, such as /run/spire")
_image = _such("an image", lambda text: references.image(text) is not None, "REGISTRY/PATH:TAG or ...@sha256:DIGEST")
_repository = _such("a repository", references.is_repository_pattern, "REGISTRY/PATH without a tag, or REGISTRY/PATH/*")
_config_map = _such("a ConfigMap", _is_config_map, "NAMESPACE/NAME, or */NAME for every namespace")
_variable = _such(
    "the name of a variable",
    lambda text: re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is not None,
    "such as AWS_REGION",
)
_capability = _such("a capability", lambda text: re.fullmatch(r"[A-Z][A-Z_]*", text) is not None, "such as NET_ADMIN")
_level = choice(("debug", "info", "warning", "error"))


def _quantity(at: At) -> str | None:
    text = at.text()  # 2 and 0.5 are numbers to YAML
    if references.quantity(text) is None or not isinstance(at.node, Scalar):
        at.error(f'not a quantity: "{shortened(text)}"', "such as 100m, 0.5 or 128Mi")
        return None
    return text


class _Default(msgspec.Struct, frozen=True):
    """What stands for `none`, as None says that a key was refused."""


_NONE = _Default()


def _or_none(read_value: Reading[T]) -> Reading[T | _Default]:
    def read_it(at: At) -> T | _Default | None:
        return _NONE if at.text() == "none" else read_value(at)

    return read_it


def _made(make: Callable[..., T]) -> Callable[..., T]:
    """`make` with None where a key says `none`."""

    def with_none(**values: object) -> T:
        return make(**{key: None if value is _NONE else value for key, value in values.items()})

    return with_none


_quantities: Reading[Resources] = Shape(
    _made(Resources),
    {"cpu": _quantity, "cpuLimit": _or_none(_quantity), "memory": _quantity, "memoryLimit": _or_none(_quantity)},
)


def _resources(at: At) -> Resources | None:
    """A request above its limit, which may be the limit that holds without one, would be no pod's."""
    found = _quantities(at)
    if found is None:
        return None
    for key, request, limit in (
        ("cpu", found.cpu, found.cpu_limit),
        ("memory", found.memory, found.memory_limit),
    ):
        if limit is not None and not references.at_most(request, limit):
            at.error(f"{key}, {request}, is more than {key}Limit, {limit}", f'raise {key}Limit, or write "none"')
            return None
    return found


_sidecar: Reading[Sidecar] = Shape(
    _made(Sidecar),
    {
        "image": _image,
        "imagePullPolicy": choice(("Always", "IfNotPresent", "Never")),
        "native": boolean,
        "runAsUser": _or_none(integer(1, 2**31 - 1)),
        "logLevel": _level,
        "port": integer(1, 65535),
        "admin": address,
        "resources": _resources,
        "spiffe": Shape(
            Spiffe,
            {
                "volume": choice(("csi", "host-path", "none")),
                "driver": _name,
                "directory": _folder,
                "socket": _such("a file name", lambda text: _FILE.fullmatch(text) is not None, "without a folder"),
            },
        ),
        "apiServer": reached,
    },
    required=("image",),
)

_trust: Reading[Trust] = Shape(
    Trust,
    {
        "images": list_of(_repository),
        "configMaps": list_of(_config_map),
        "dns": boolean,
        "env": list_of(_variable),
        "mounts": list_of(_folder),
        "hostPaths": list_of(_folder),
        "capabilities": list_of(_capability),
    },
)


def _lifetime(at: At) -> float | None:
    value = duration(at)
    if value is not None and not 60.0 <= value <= 3650 * DAY:
        at.error(f"between a minute and ten years, found {at.text()}")
        return None
    return value


_built_in: Reading[BuiltInTls | FilesTls] = Shape(
    BuiltInTls,
    {"secret": _name, "lease": _name, "webhook": _name, "lifetime": _lifetime},
    ignored=("type",),
)
_files: Reading[BuiltInTls | FilesTls] = Shape(
    FilesTls, {"certificate": file_name, "key": file_name}, required=("certificate", "key"), ignored=("type",)
)

_shape: Reading[Settings] = Shape(
    Settings,
    {
        "sidecar": _sidecar,
        "listen": address,
        "admin": address,
        "logLevel": _level,
        "namespace": _namespace,
        "excludedNamespaces": list_of(_namespace),
        "tls": tagged({"builtIn": _built_in, "files": _files}),
        "statusLease": _name,
        "trust": _trust,
    },
    required=("sidecar",),
)


def load(path: Path) -> Settings:
    """Read a file. Raises `ConfigurationError` with every problem; blocks while reading."""
    report = Report()
    hint = "say which by -c; the ConfigMap openmcp-injector of a cluster holds it"
    return _settings(read_documents(path, report, hint), str(path), report)


def parse(text: str, file: str = "injector.yaml") -> Settings:
    """The same from a text."""
    report = Report()
    nodes = read(text.encode(), file, report)
    return _settings([At(node, node.mark, "", "", report) for node in nodes], file, report)


def _settings(documents: list[At], file: str, report: Report) -> Settings:
    if len(documents) != 1 and not report.errors:
        report.error(Mark(file), "", "one YAML document is wanted", "it begins with `sidecar: {image: ...}`")
    made = _shape(documents[0]) if len(documents) == 1 else None
    if made is None or report.errors:
        raise ConfigurationError(in_order(report.errors), in_order(report.warnings))
    return made


def in_cluster(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with the address of the API server that the kubelet told this process, where they name none.

    The kubelet tells the sidecar as well, but there a Service named `kubernetes` in the agent's namespace goes first.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if settings.sidecar.api_server is not None or not host or not port.isdecimal():
        return settings
    found = msgspec.structs.replace(settings.sidecar, api_server=Address(host=host, port=int(port)))
    return msgspec.structs.replace(settings, sidecar=found)
