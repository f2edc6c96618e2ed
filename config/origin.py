"""From the tree of a source to `source` of the model: where servers, policies and workflows come from."""

import re
from typing import Final

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, shortened, string, tagged
from openmcp.config.values import duration

SHORTEST: Final = 120.0
"""Seconds. A watch on which nothing happens is heard of each minute."""
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def namespace(at: At) -> str | None:
    """The name of a namespace (RFC 1123 label)."""
    value = string(at)
    if value is not None and not _NAMESPACE.fullmatch(value):
        at.error(f'not a namespace: "{shortened(value)}"', "lower case letters, digits and -, at most 63")
        return None
    return value


def _staleness(at: At) -> float | None:
    value = duration(at)
    if value is not None and value < SHORTEST:
        at.error("must be at least 2m", "where nothing changes, the API server is heard of about once a minute")
        return None
    return value


source: Reading[model.Origin] = tagged(
    {
        "file": Shape(model.FileOrigin, {}, ignored=("type",)),
        "kubernetes": Shape(
            model.KubernetesOrigin, {"namespace": namespace, "maxStaleness": _staleness}, ignored=("type",)
        ),
    }
)
