"""The inspectors of one configuration: made at the first message of an agent on a server."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from openmcp.config.model import Policy
from openmcp.identity.principal import Principal
from openmcp.sidecar.policy.agents import Agents
from openmcp.sidecar.policy.globs import GlobSet

if TYPE_CHECKING:
    from openmcp.sidecar.inspection.inspector import Inspector
    from openmcp.sidecar.inspection.responses import CompiledResponseRule

MAX_AGENTS: Final = 1024
"""Agents and servers whose inspector is remembered. Those under the same policies share one."""
MAX_PREPARED: Final = 32
"""Inspectors that are made before anybody calls."""


class Inspectors:
    """The response rules of all policies."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._scopes = [_Scope(policy) for policy in policies if policy.responses]
        self._known: dict[tuple[Principal, str], Inspector | None] = {}
        self._made: dict[tuple[int, ...], Inspector | None] = {(): None}

    def prepare(self, servers: Iterable[str]) -> None:
        """Make what most agents will need before the first of them calls: their first call would wait for it.

        These are, for each server, the policies for everybody, alone and with each of the others. Costs some 60 ms and
        8 MiB where there are response rules, nothing elsewhere.
        """
        for server in servers:
            about = [index for index, scope in enumerate(self._scopes) if scope.is_about(server)]
            shared = [index for index in about if self._scopes[index].everybody]
            for one in [None, *(index for index in about if index not in shared)]:
                if len(self._made) > MAX_PREPARED:
                    return
                self._inspector(tuple(sorted(shared if one is None else [*shared, one])))
        if any(not rule.blocks for scope in self._scopes for rule in scope.rules):
            from openmcp.sidecar.inspection import validation  # noqa: F401 - so that it is there

    def find(self, principal: Principal, server: str) -> "Inspector | None":
        """The inspector for what this server says to this agent; None where no response rule holds."""
        if not self._scopes:
            return None
        key = (principal, server)
        if key in self._known:
            return self._known[key]
        if len(self._known) >= MAX_AGENTS:
            self._known.clear()
        holding = tuple(index for index, scope in enumerate(self._scopes) if scope.holds(principal, server))
        inspector = self._known[key] = self._inspector(holding)
        return inspector

    def _inspector(self, holding: tuple[int, ...]) -> "Inspector | None":
        if holding not in self._made:
            self._made[holding] = _inspector([rule for index in holding for rule in self._scopes[index].rules])
        return self._made[holding]


class _Scope:
    """The response rules of one policy, and whom they are about."""

    __slots__ = ("_agents", "_servers", "everybody", "rules")

    def __init__(self, policy: Policy) -> None:
        from openmcp.sidecar.inspection.responses import CompiledResponseRule

        self.everybody = not policy.agents
        self._agents = Agents(policy.agents)
        self._servers = GlobSet(policy.servers)
        self.rules = [CompiledResponseRule(policy, rule) for rule in policy.responses]

    def is_about(self, server: str) -> bool:
        return self._servers.matches(server)

    def holds(self, principal: Principal, server: str) -> bool:
        return self._servers.matches(server) and self._agents.match(principal)


def _inspector(rules: "list[CompiledResponseRule]") -> "Inspector":
    # Here, since it takes 2 MiB, which a sidecar without response rules does not need.
    from openmcp.sidecar.inspection.inspector import Inspector

    return Inspector(rules)
