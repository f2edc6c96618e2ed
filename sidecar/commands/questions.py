"""What `openmcp explain` and `openmcp test` ask the engine: a call as an agent would send it."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from openmcp.config import agentnames
from openmcp.config.model import Configuration
from openmcp.config.problems import did_you_mean
from openmcp.identity.principal import Principal
from openmcp.sidecar.commands.common import printable
from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.mcp.methods import CLIENT_NOTIFICATIONS, CLIENT_REQUESTS
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import LEGACY, MODERN, JsonObject, Notification, Request

_NAMED: Final = {
    "tool": ("tools/call", "name"),
    "prompt": ("prompts/get", "name"),
    "resource": ("resources/read", "uri"),
}
_VERSIONS: Final = {LEGACY: "2025-11-25", MODERN: "2026-07-28"}


class WrongQuestion(Exception):
    """A question that no agent could ask; the text says why."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks which server for what: `kind` is tool, prompt, resource or method, `asked` its name."""

    agent: str
    server: str
    kind: str
    asked: str
    arguments: JsonObject | None = None
    claims: tuple[tuple[str, str], ...] = ()

    @property
    def principal(self) -> Principal:
        """The caller, taken at its word."""
        return Principal(self.agent, "asked", tuple(sorted(self.claims)))


def call_for(question: Question) -> Call:
    """The message that asks this. Raises `WrongQuestion`."""
    method, params = _message(question)
    try:
        document = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        read = jsonrpc.parse(jsonrpc.encode(document))  # strictly, as everything that agents send
        assert isinstance(read, Request)
        for era in (LEGACY, MODERN):
            if method in CLIENT_REQUESTS[era]:
                return call_of(read, era, _VERSIONS[era])
            if method in CLIENT_NOTIFICATIONS[era]:
                return call_of(Notification(method, read.params), era, _VERSIONS[era])
    except Refused as refusal:
        raise WrongQuestion(f"no agent can send this: {refusal.message}") from None
    hint = did_you_mean(method, (*CLIENT_REQUESTS[LEGACY], *CLIENT_REQUESTS[MODERN]))
    raise WrongQuestion(f'MCP has no method "{method}"{f" ({hint})" if hint else ""}')


def _message(question: Question) -> tuple[str, JsonObject]:
    if question.kind == "method":
        return question.asked, question.arguments or {}
    method, member = _NAMED[question.kind]
    params: dict[str, Any] = {member: question.asked}
    if question.arguments is not None:
        params["arguments"] = question.arguments
    return method, params


def check_server(configuration: Configuration, name: str) -> None:
    """Raises `WrongQuestion` where there is no such server."""
    names: Iterable[str] = [server.name for server in configuration.servers]
    if name not in names:
        hint = did_you_mean(name, names) or f"there are: {', '.join(names) or 'none'}"
        raise WrongQuestion(f'no server is named "{name}" ({hint})')


def check_agent(name: str) -> None:
    """Raises `WrongQuestion` where no caller can have this name."""
    fault = agentnames.fault(name)
    if fault is not None:
        raise WrongQuestion(f'no caller is named "{printable(name)}" ({fault})')
