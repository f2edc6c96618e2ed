"""Complete answers in the place of a server, as the adapters give them."""

from openmcp.sidecar.bridge.stream import JSON
from openmcp.sidecar.errors import UNSUPPORTED_VERSION
from openmcp.sidecar.mcp import answers, jsonrpc
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.types import JsonObject, MessageId


class _Complete:
    """Carries answers that are complete."""

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        """Nothing is held."""

    def resume(self) -> None:
        """Nothing was paused."""

    def expect_end(self) -> None:
        """It has ended."""


def status(number: int) -> UpstreamResponse:
    """An answer without a body."""
    response = UpstreamResponse(_Complete())
    response.status = number
    response.end(None)
    return response


def refusal(
    number: int, identifier: MessageId | None, code: int, message: str, data: JsonObject | None = None
) -> UpstreamResponse:
    """An answer with this HTTP status and a JSON-RPC error."""
    response = status(number)
    response.headers = dict(JSON)
    response.body = jsonrpc.encode(answers.error(identifier, code, message, data))
    return response


def unsupported(identifier: MessageId | None, supported: tuple[str, ...]) -> UpstreamResponse:
    """The server's era is the other one: which versions it has."""
    data: JsonObject = {"supported": list(supported), "requested": ""}
    return refusal(400, identifier, UNSUPPORTED_VERSION, "Unsupported protocol version", data)


def header(lines: bytes, name: bytes) -> bytes | None:
    """One of the header lines that we have made."""
    for line in lines.split(b"\r\n"):
        if line.startswith(name + b": "):
            return line[len(name) + 2 :]
    return None
