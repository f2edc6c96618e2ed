"""What tools promise to return (`outputSchema`), as their lists said, and whether a redacted result still keeps it.

A schema comes from a server that is not trusted: it is bounded in size, nothing it refers to is fetched, its patterns
are RE2, and a validation takes a bounded number of steps. What cannot be judged does not fit.
"""

from typing import Any, Final

import orjson

MAX_SCHEMA: Final = 64 * 1024
"""Bytes of a schema; under a larger one nothing that was redacted fits."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of all schemas that are kept; beyond that the oldest are forgotten."""
_TOO_LARGE: Final = b""


class Schemas:
    """The output schemas of all servers' tools, as last listed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}
        self._size = 0

    def remember(self, server: str, tools: list[Any]) -> None:
        """Note what the tools of a list promise; a tool that promises nothing any more is forgotten."""
        for tool in tools:
            name = tool.get("name") if type(tool) is dict else None
            if type(name) is not str or len(name) > MAX_SCHEMA:
                continue
            self._forget((server, name))
            schema = tool.get("outputSchema")
            if schema is not None:
                self._keep((server, name), _encoded(schema))

    def known(self, server: str, tool: str) -> bytes | None:
        """What the tool promises to return, as JSON (empty: it cannot be judged); None where nothing is known."""
        return self._kept.get((server, tool))

    def _keep(self, key: tuple[str, str], schema: bytes) -> None:
        self._kept[key] = schema
        self._size += _cost(key, schema)
        while self._size > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[str, str]) -> None:
        schema = self._kept.pop(key, None)
        if schema is not None:
            self._size -= _cost(key, schema)


def _cost(key: tuple[str, str], schema: bytes) -> int:
    return len(schema) + 2 * len(key[1]) + 300


def _encoded(schema: object) -> bytes:
    try:
        encoded = orjson.dumps(schema)
    except TypeError:
        return _TOO_LARGE
    return encoded if len(encoded) <= MAX_SCHEMA else _TOO_LARGE


def fits(schema: bytes, value: object) -> bool:
    """Whether a value is what a tool promises to return, as `Schemas.known` tells it."""
    from openmcp.sidecar.inspection import validation  # here, since few results are redacted, and it takes 6 MiB

    return validation.fits(schema, value)
