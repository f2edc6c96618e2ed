"""Refusals and failures as values that every layer can raise and the pipeline can answer."""

import errno
from collections.abc import Mapping
from math import ceil
from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
DENIED: Final = 40300
"""Our own codes lie outside -32768..-32000, which JSON-RPC and MCP reserve."""
APPROVAL_PENDING: Final = 40301
TOO_MANY: Final = 42900
NOT_IDENTIFIED: Final = 40100
SESSION_NOT_FOUND: Final = 40400


class Refused(Exception):
    """A message that is not let through: HTTP status, JSON-RPC code and message, and the id it answers.

    `reason` is a short fixed word for metrics and the record; `message` may be shown to the caller.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        reason: str,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.reason = reason
        self.data = data


class Malformed(Refused):
    """A body that is not one strict JSON-RPC message of MCP; always HTTP 400."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(400, code, message, reason="malformed")


class MethodNotAllowed(Refused):
    """An HTTP method that is not served here: 405, with the methods that are (`Allow`, RFC 9110, section 15.5.6)."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(405, INVALID_REQUEST, message, reason="method")
        self.allow = allow


class RateLimited(Refused):
    """A message beyond a limit: 429, with the limit in its words, and the seconds after which there is room again."""

    def __init__(self, limit: str, seconds: float) -> None:
        self.retry_after = max(1, ceil(seconds))
        again = f"again in {self.retry_after} s"
        data = {"retryAfterMs": ceil(seconds * 1000)}
        super().__init__(429, TOO_MANY, f"too many requests: {limit}; {again}", reason="rate_limited", data=data)


class Unidentified(Refused):
    """A caller that is not identified: 401, or 503 where that cannot be judged now.

    `cause` is a short fixed word for metrics, `why` says it in words, without anything that the caller presented.
    """

    def __init__(self, status: int, cause: str, why: str) -> None:
        super().__init__(status, NOT_IDENTIFIED, f"the caller is not identified: {why}", reason="not_identified")
        self.cause = cause
        self.why = why


class UpstreamFailed(Exception):
    """The MCP server could not be reached or did not answer properly.

    `kind` is one of the words of `openmcp_errors_total{kind}`: connect, timeout, closed, protocol, too_large,
    status, credential, overloaded, share (the agent has its share, the rest is for others), ejected (no endpoint may be
    asked), untrusted (the server is not who it should be), identity (we have no SVID to show it). `sent` is False where
    it is certain that no byte of the request reached the server.
    """

    def __init__(self, kind: str, detail: str, *, sent: bool = True) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.sent = sent


_LISTENING: Final = {
    errno.EADDRINUSE: "another process has it: end that one, or write another address",
    errno.EADDRNOTAVAIL: "no interface of this machine has it; 0.0.0.0 stands for all of them",
    errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE",
}


def cannot_listen(error: OSError) -> str:
    """Why an address cannot be had, and what to do about it."""
    hint = _LISTENING.get(error.errno or 0)
    return f"cannot listen: {error}" + (f" ({hint})" if hint else "")
