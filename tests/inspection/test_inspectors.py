"""Inspectors are there before the first call, and shared by the agents that have the same rules."""

import sys

import pytest

from openmcp.config.model import Policy, ResponseAction, ResponseRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.inspection import inspectors
from openmcp.sidecar.inspection.inspectors import Inspectors

RULE = ResponseRule(name="r", action=ResponseAction.REDACT, detect=("email",))


def policy(name: str, *agents: str, servers: tuple[str, ...] = ("s",)) -> Policy:
    return Policy(name=name, servers=servers, agents=agents, responses=(RULE,))


def key(name: str) -> Principal:
    return Principal(f"key:{name}", "apiKey")


def test_the_first_call_of_an_agent_waits_for_no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Inspectors([policy("all"), policy("a", "key:a*"), policy("b", "key:b"), policy("t", servers=("t",))])
    prepared.prepare(["s", "t"])

    def compiling(rules: object) -> None:
        raise AssertionError("compiled at a call")

    monkeypatch.setattr(inspectors, "_inspector", compiling)
    for name, server in (("a1", "s"), ("b", "s"), ("c", "s"), ("a1", "t")):
        assert prepared.find(key(name), server) is not None
    assert prepared.find(key("a1"), "other") is None
    assert prepared.find(key("a1"), "s") is prepared.find(key("a2"), "s")
    assert prepared.find(key("a1"), "s") is not prepared.find(key("b"), "s")


def test_what_checks_redacted_results_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "openmcp.sidecar.inspection.validation"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("openmcp.sidecar.inspection.validation", raising=False)
    Inspectors([policy("all")]).prepare(["s"])
    assert name in sys.modules


def test_preparation_is_bounded() -> None:
    many = Inspectors([policy(f"p{number}", f"key:{number}") for number in range(100)])
    many.prepare(["s"])
    assert len(many._made) <= inspectors.MAX_PREPARED + 1
    assert many.find(key("99"), "s") is not None
