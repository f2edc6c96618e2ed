"""What operators and probes ask: is it alive, is it ready, what does it count. Served on the admin listener."""

from collections.abc import Callable
from typing import Final

import msgspec
import orjson

from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.types import JsonObject

_PRETTY: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_TEXT: Final = b"content-type: text/plain; charset=utf-8\r\n"
_JSON: Final = b"content-type: application/json\r\n"
_EXPOSITION: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"


class Readiness(msgspec.Struct, frozen=True):
    """Whether traffic may come, and the details that `/readyz` shows."""

    ready: bool
    detail: JsonObject


class Admin:
    """Handles `/healthz` (the process runs), `/readyz` (traffic may come; 503 otherwise) and `/metrics`."""

    def __init__(self, readiness: Callable[[], Readiness], exposition: Callable[[], bytes]) -> None:
        self._readiness = readiness
        self._exposition = exposition

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if exchange.request.method != "GET":
            exchange.respond(405, _TEXT + b"allow: GET\r\n", b"only GET is served\n")
        elif exchange.request.path == "/healthz":
            exchange.respond(200, _TEXT, b"ok\n")
        elif exchange.request.path == "/readyz":
            state = self._readiness()
            body = orjson.dumps(
                {"ready": state.ready} | state.detail, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            )
            exchange.respond(200 if state.ready else 503, _JSON, body)
        elif exchange.request.path == "/metrics":
            exchange.respond(200, _EXPOSITION, self._exposition())
        else:
            exchange.respond(404, _TEXT, b"not found: try /healthz, /readyz, /metrics\n")
