"""Short ways to write policies and questions in tests."""

from collections.abc import Iterable
from typing import Any

from openmcp.config.model import Action, AgentSelector, Approval, Condition, Operator, Policy, RequestRule, Value
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import Permit, PolicySet
from openmcp.sidecar.types import Era, JsonObject, Kind, Request, Subject

AGENT = Principal("key:bot", "apiKey")
SERVER = "zendesk"


def allow(name: str = "allow", when: Iterable[Condition] = (), **selectors: Any) -> RequestRule:
    """A rule that allows; `tools=["a"]` and the like select, `detect` and `patterns` look for something."""
    return _rule(Action.ALLOW, name, when, selectors)


def deny(
    name: str = "deny", when: Iterable[Condition] = (), message: str | None = None, **selectors: Any
) -> RequestRule:
    """A rule that denies."""
    return _rule(Action.DENY, name, when, selectors, message=message)


def ask(name: str = "ask", when: Iterable[Condition] = (), workflow: str = "leads", **selectors: Any) -> RequestRule:
    """A rule that requires an approval."""
    return _rule(Action.REQUIRE_APPROVAL, name, when, selectors, approval=Approval(workflow=workflow))


def when(path: str, op: str, value: Value | Iterable[Value] = None) -> Condition:
    """A condition; several values in a list."""
    given = value if value is None or isinstance(value, str | int | float | bool) else tuple(value)
    return Condition(path=path, op=Operator(op), value=given)


def policy(
    *rules: RequestRule,
    name: str = "p",
    agents: Iterable[str | AgentSelector] = (),
    servers: Iterable[str] = (SERVER,),
    shadow: bool = False,
) -> Policy:
    """A policy of these rules; without `agents` it holds for all of them."""
    mode = "shadow" if shadow else "enforce"
    return Policy(name=name, servers=tuple(servers), agents=tuple(agents), mode=mode, requests=rules)


def agent(name: str) -> Principal:
    """A caller known by an API key, or anonymous."""
    return Principal(name, "apiKey" if name.startswith("key:") else "none")


def tool(name: str) -> Subject:
    return Subject(Kind.TOOL, name)


def prompt(name: str) -> Subject:
    return Subject(Kind.PROMPT, name)


def resource(uri: str) -> Subject:
    return Subject(Kind.RESOURCE, uri)


def method(name: str) -> Subject:
    return Subject(Kind.METHOD, name)


def call(name: str, /, **params: Any) -> Call:
    """A request of 2025-11-25."""
    return call_of(Request(1, name, params), Era.LEGACY, "2025-11-25")


def calling(named: str, arguments: JsonObject | None = None, **more: Any) -> Call:
    """A tools/call."""
    return call("tools/call", name=named, **({} if arguments is None else {"arguments": arguments}), **more)


def decided(policies: Iterable[Policy], asked: Call, caller: Principal = AGENT, server: str = SERVER) -> Decision:
    """What the policies say to a call."""
    verdict = PolicySet(policies).authorize(caller, server, asked)
    return verdict.decision if isinstance(verdict, Permit) else verdict


def _rule(
    action: Action, name: str, when: Iterable[Condition], selectors: dict[str, Iterable[str]], **more: Any
) -> RequestRule:
    given = {key: tuple(globs) for key, globs in selectors.items()}
    return RequestRule(name=name, action=action, when=tuple(when), **given, **more)
