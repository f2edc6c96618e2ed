"""Decides on recorded calls again, under other policies: `openmcp replay --decide`.

A record without messages has methods and names alone. Where a decision hangs on more than these, or on claims of the
agent, which no record has, it cannot be told.
"""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from openmcp.config.model import AgentSelector, Configuration
from openmcp.identity.principal import Principal
from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp.methods import NAMED
from openmcp.sidecar.mcp.surface import call_of, subjects_of
from openmcp.sidecar.policy.decision import DENY, HIDDEN, Decision
from openmcp.sidecar.policy.engine import Permit, PolicySet
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, Era, JsonObject, Request, Subject

_NO_SERVER: Final = Decision(DENY, reason="the configuration has no such server")
_NOT_WHOLE: Final = ("…(+", "[redacted:", "[credential]")
"""What stands in a name that was clipped or redacted."""
_WITHOUT_CLAIMS: Final = frozenset(("apiKey", "none"))
_CONNECTING: Final = (Subject(METHOD, "initialize"),)
"""By what an agent's answers to its server are judged."""


class Unknown(msgspec.Struct, frozen=True):
    """A decision that cannot be told, and why."""

    why: str


class Redecider:
    """Decides on the lines of a record under one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self._policies = PolicySet(configuration.policies)
        self._servers: Collection[str] = frozenset(server.name for server in configuration.servers)
        self._by_claims = [
            GlobSet(policy.servers)
            for policy in configuration.policies
            if any(isinstance(agent, AgentSelector) and agent.claims for agent in policy.agents)
        ]

    def decide(self, line: JsonObject) -> Decision | Unknown:
        """The decision on a line of the record that has one."""
        server, identified_by = str(line.get("server")), str(line.get("identified_by"))
        if server not in self._servers:
            return _NO_SERVER
        if identified_by not in _WITHOUT_CLAIMS and any(globs.matches(server) for globs in self._by_claims):
            return Unknown("a policy selects agents by claims, which are not in the record")
        agent = Principal(str(line.get("agent")), identified_by)
        missing = _missing(line)
        if missing:
            return self._by_name(agent, server, line, missing)
        if line["event"] == "client-response":
            return self._policies.decide(agent, server, _CONNECTING, line.get("result", line.get("error")))
        return self._whole(agent, server, line)

    def _whole(self, agent: Principal, server: str, line: JsonObject) -> Decision | Unknown:
        message = Request(line.get("id", 0), str(line.get("method")), line["params"])
        try:
            call = call_of(message, Era(line.get("era", "legacy")), str(line.get("protocol_version")))
        except (Refused, ValueError):
            return Unknown("the message in the record is none that could be sent")
        verdict = self._policies.authorize(agent, server, call)
        return verdict.decision if isinstance(verdict, Permit) else verdict

    def _by_name(self, agent: Principal, server: str, line: JsonObject, missing: str) -> Decision | Unknown:
        """The decision, if it is the same whatever the message says."""
        rules = self._policies.rules_for(agent, server)
        found: list[Decision] = []
        for subjects in _subjects(line):
            for subject in subjects:
                found.append(rules.decide(subject))
                if rules.known(subject) is None and rules.shows(subject) is not HIDDEN:
                    return Unknown(f"it depends on what the message says, and {missing}")
        if not found or len({decision.verdict for decision in found}) > 1:
            return Unknown(f"it depends on what the message says, and {missing}")
        return found[0]


def _missing(line: JsonObject) -> str:
    """Why the message is not known as it was, empty where it is."""
    said: Any = next((line[member] for member in ("params", "result", "error") if member in line), None)
    if type(said) is not dict:
        return "that is not whole in the record" if "clipped" in line else "that is not in the record"
    return "some of that was removed from the record" if "removed" in line else ""


def _subjects(line: JsonObject) -> list[tuple[Subject, ...]]:
    """What a call of this method and name touches: several, where it is one of them; none where that is not known."""
    method, name = str(line.get("method")), line.get("name")
    if line["event"] == "client-response":
        return [_CONNECTING]
    if method == "subscriptions/listen":
        return []
    if type(name) is not str:
        return [(Subject(METHOD, method),)] if method not in NAMED and method != "completion/complete" else []
    if any(mark in name for mark in _NOT_WHOLE):
        return []
    kinds = (NAMED[method][0],) if method in NAMED else (PROMPT, RESOURCE)
    try:
        return [subjects_of(kind, name) for kind in kinds]
    except Refused:
        return []
