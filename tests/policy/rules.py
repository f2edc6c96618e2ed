"""Short ways to write policies and questions in tests."""

from collections.abc import Iterable

from openmcp.config.model import Action, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.types import Kind, Subject

AGENT = Principal("key:bot", "apiKey")
SERVER = "zendesk"


def allow(name: str = "allow", **selectors: Iterable[str]) -> RequestRule:
    """A rule that allows; `tools=["a"]` and the like select."""
    return _rule(Action.ALLOW, name, selectors)


def deny(name: str = "deny", message: str | None = None, **selectors: Iterable[str]) -> RequestRule:
    """A rule that denies."""
    return _rule(Action.DENY, name, selectors, message)


def policy(
    *rules: RequestRule, name: str = "p", agents: Iterable[str] = (), servers: Iterable[str] = (SERVER,)
) -> Policy:
    """A policy of these rules; without `agents` it holds for all of them."""
    return Policy(name=name, servers=tuple(servers), agents=tuple(agents), requests=rules)


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


def _rule(action: Action, name: str, selectors: dict[str, Iterable[str]], message: str | None = None) -> RequestRule:
    given = {key: tuple(globs) for key, globs in selectors.items()}
    return RequestRule(name=name, action=action, message=message, **given)
