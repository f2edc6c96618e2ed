"""Pure: the names that Kubernetes and registries use: images, objects, quantities."""

import re
from collections.abc import Iterable
from decimal import Decimal

import msgspec

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"(?:{_HOST}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
_IMAGE = re.compile(
    rf"(?P<repository>{_REPOSITORY})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)
_BELOW = re.compile(rf"{_REPOSITORY}(?:/\*)?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_QUANTITY = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<unit>m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_UNITS = {None: Decimal(1), "m": Decimal("0.001")} | {
    unit + binary: Decimal(1024 if binary else 1000) ** power
    for power, unit in enumerate("kMGTPE", 1)
    for binary in ("", "i")
}
_UNITS["Ki"] = _UNITS.pop("ki")

MAX_IMAGE = 512


class Image(msgspec.Struct, frozen=True):
    """A reference to an image, apart. Two names of one repository (with and without `docker.io/`) are two."""

    repository: str
    tag: str | None
    digest: str | None


def image(text: str) -> Image | None:
    """`registry.example/path:tag@sha256:...` apart; None for what is no reference."""
    found = _IMAGE.fullmatch(text) if len(text) <= MAX_IMAGE else None
    return Image(found["repository"], found["tag"], found["digest"]) if found else None


def is_repository_pattern(text: str) -> bool:
    """A repository, or `.../*` for all below a path."""
    return len(text) <= MAX_IMAGE and _BELOW.fullmatch(text) is not None


def permits(patterns: Iterable[str], repository: str) -> bool:
    """Whether a repository is one of `patterns`."""
    return any(
        repository.startswith(pattern[:-1]) if pattern.endswith("/*") else repository == pattern for pattern in patterns
    )


def is_label(text: str) -> bool:
    """A DNS label (RFC 1123), as namespaces, containers and volumes are named."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """A DNS subdomain, as ConfigMaps, Secrets and Leases are named."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def quantity(text: str) -> Decimal | None:
    """`100m`, `0.5`, `64Mi`: the number meant; None for what is no quantity, or is none above nothing."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    value = Decimal(found["number"]) * _UNITS[found["unit"]]
    return value if value > 0 else None


def at_most(request: str, limit: str) -> bool:
    """Whether one quantity is not above another."""
    low, high = quantity(request), quantity(limit)
    return low is not None and high is not None and low <= high
