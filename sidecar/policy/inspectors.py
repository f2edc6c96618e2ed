"""The inspectors of one configuration: made at the first message of an agent on a server."""

from collections.abc import Iterable
from typing import Final

from openmcp.config.model import Policy
from openmcp.identity.principal import Principal
from openmcp.sidecar.policy.agents import Agents
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.policy.inspection import Inspector
from openmcp.sidecar.policy.responses import CompiledResponseRule

MAX_AGENTS: Final = 1024
"""Agents and servers whose inspector is remembered. Those under the same policies share one."""


class Inspectors:
    """The response rules of all policies."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._scopes = [
            (
                Agents(policy.agents),
                GlobSet(policy.servers),
                tuple(CompiledResponseRule(policy, rule) for rule in policy.responses),
            )
            for policy in policies
            if policy.responses
        ]
        self._known: dict[tuple[Principal, str], Inspector | None] = {}
        self._made: dict[tuple[int, ...], Inspector | None] = {(): None}

    def find(self, principal: Principal, server: str) -> Inspector | None:
        """The inspector for what this server says to this agent; None where no response rule holds."""
        if not self._scopes:
            return None
        key = (principal, server)
        if key in self._known:
            return self._known[key]
        if len(self._known) >= MAX_AGENTS:
            self._known.clear()
        holding = tuple(
            index
            for index, (agents, servers, _) in enumerate(self._scopes)
            if servers.matches(server) and agents.match(principal)
        )
        if holding not in self._made:
            self._made[holding] = Inspector(rule for index in holding for rule in self._scopes[index][2])
        inspector = self._known[key] = self._made[holding]
        return inspector
