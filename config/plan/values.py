"""What a plan is made for, and what it is: documents for Kubernetes, and notices for the reader."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

Document = Mapping[str, object]
"""One object of Kubernetes, or a part of one: JSON."""

GATEWAY_API: Final = "gateway.networking.k8s.io"
ENVOY: Final = "gateway.envoyproxy.io"
AI: Final = "aigateway.envoyproxy.io"
AGENT_HEADER: Final = "x-openmcp-agent"
SUBJECT_HEADER: Final = "x-openmcp-subject"
"""Where Envoy puts the name of the key, or the subject of the token, by which a caller is known; nobody else can set
them. They are two, since the filter for tokens removes its own from every request."""
NAME_HEADERS: Final = (AGENT_HEADER, SUBJECT_HEADER)
CONTROLLER: Final = "gateway.envoyproxy.io/gatewayclass-controller"

_VERSIONS: Final = {GATEWAY_API: "v1", ENVOY: "v1alpha1", AI: "v1beta1"}
_SERVICE = re.compile(r"([a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?))?:([0-9]{1,5})")


class CannotPlan(Exception):
    """There is no plan for this; the text says why and what to do."""


class Service(msgspec.Struct, frozen=True):
    """A Service of Kubernetes and one of its ports; `namespace` may be that of the plan."""

    name: str
    namespace: str
    port: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is for: the name of its Gateway and of what belongs to it, the namespace of all of it; the Service
    of sidecars that are to be behind the gateway; whether Envoy AI Gateway is there."""

    name: str = "openmcp"
    namespace: str = "openmcp"
    sidecar: Service | None = None
    ai_gateway: bool = False


class Notice(msgspec.Struct, frozen=True, order=True):
    """Something that the reader has to know or to do, and the place in the configuration that it is about."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Plan(msgspec.Struct, frozen=True):
    """The documents, `warnings` about what of the configuration does not hold there, and `needs`: what the documents
    refer to and somebody else has to make."""

    documents: tuple[Document, ...]
    warnings: tuple[Notice, ...]
    needs: tuple[Notice, ...]


class Notices:
    """Collects what the reader is told; each thing once."""

    def __init__(self) -> None:
        self.warnings: dict[Notice, None] = {}
        self.needs: dict[Notice, None] = {}

    def warn(self, place: str, text: str) -> None:
        """Something does not hold in this plan."""
        self.warnings[Notice(place, text)] = None

    def need(self, place: str, text: str) -> None:
        """Something has to be there that the plan does not contain."""
        self.needs[Notice(place, text)] = None


def service(text: str, namespace: str) -> Service | None:
    """`NAME:PORT` or `NAME.NAMESPACE:PORT`; None for anything else."""
    found = _SERVICE.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 65536:
        return None
    return Service(found[1], found[2] or namespace, int(found[3]))


def is_label(text: str) -> bool:
    """Whether a namespace may have this name (RFC 1123)."""
    return re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", text) is not None


def object_name(*parts: str) -> str:
    """A name for an object (a label of RFC 1123, at most 63 characters), another one for every other text."""
    text = "-".join(parts)
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if made == text and len(made) <= 63:
        return made
    return f"{made[:54].rstrip('-') or 'x'}-{_digest(text)[:8]}"


def part_name(owner: str, part: str) -> str:
    """A name for what belongs to something, behind a dot, which no `object_name` has."""
    return f"{object_name(owner)}.{part}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_names(documents: Iterable[Document]) -> None:
    """Raises `CannotPlan` where one object would be put over another one."""
    seen: set[tuple[object, object]] = set()
    for one in documents:
        metadata = one["metadata"]
        assert isinstance(metadata, dict)
        what = (one["kind"], metadata["name"])
        if what in seen:
            raise CannotPlan(f"servers: two of them need the {what[0]} {what[1]}: give one of the two another name")
        seen.add(what)


def document(group: str, kind: str, name: str, namespace: str | None, spec: Document) -> Document:
    """One object of this group."""
    place = {} if namespace is None else {"namespace": namespace}
    return {
        "apiVersion": f"{group}/{_VERSIONS[group]}",
        "kind": kind,
        "metadata": {"name": name, **place},
        "spec": dict(spec),
    }


def reference(kind: str, name: str, group: str = GATEWAY_API) -> Document:
    """How one object names another one of its namespace."""
    return {"group": group, "kind": kind, "name": name}


def duration(seconds: float) -> str:
    """Seconds as the Gateway API writes them (GEP-2257): at most five digits and a unit each, nothing below 1 ms."""
    left = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them, in the largest unit that is exact and that the CRDs take."""
    for unit, factor in (("Gi", 1024**3), ("Mi", 1024**2), ("Ki", 1024)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names)
