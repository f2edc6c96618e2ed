"""Tests of policies as a file: what agents ask, and the decision that is expected. Run by `openmcp test`.

configuration: gateway.yaml         # relative to this file
tests:
  - {name: no deleting, agent: "key:bot", server: s, tool: delete_x, expect: deny}
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from openmcp.config import agentnames, model
from openmcp.config.cursor import At, Reading, Shape, choice, distinct, list_of, pairs, shortened, some, string
from openmcp.config.load import load, read_documents
from openmcp.config.problems import ConfigurationError, Mark, Report, did_you_mean, in_order
from openmcp.config.values import file_name, name
from openmcp.config.yamlsource import Mapping, Node, Scalar, Sequence

KINDS: Final = ("tool", "prompt", "resource", "method")


class RuleName(msgspec.Struct, frozen=True):
    """A rule of the configuration."""

    policy: str
    rule: str


class Expected(msgspec.Struct, frozen=True):
    """The decision that is expected and, where they are written, by whom."""

    decision: str
    policy: str | None = None
    rule: str | None = None


class PolicyTest(msgspec.Struct, frozen=True, kw_only=True):
    """One test: `agent` asks `server` for a `kind` (one of `KINDS`) by its name, `asked`.

    `arguments` are those of a tool or prompt, the params of a method. `grants` are rules whose approval is given.
    """

    name: str
    agent: str
    server: str
    kind: str
    asked: str
    expect: Expected
    arguments: dict[str, Any] | None = None
    claims: tuple[tuple[str, str], ...] = ()
    grants: tuple[RuleName, ...] = ()


class PolicyTests(msgspec.Struct, frozen=True):
    """The tests of one file, and the configuration they are about."""

    configuration: model.Configuration
    tests: tuple[PolicyTest, ...]


def load_tests(path: Path) -> PolicyTests:
    """Read a file of tests and its configuration. Raises `ConfigurationError` with every problem of either."""
    report = Report()
    documents = read_documents(path, report)
    if not documents and not report.errors:
        report.error(Mark(str(path)), "", "empty", "begin with configuration: gateway.yaml")
    for surplus in documents[1:]:
        surplus.error("a second document", "one file of tests is one document")
    read = _file(documents[0]) if documents else None
    if read is None or report.errors:
        raise ConfigurationError(in_order(report.errors))
    configuration = load(Path(read.configuration)).configuration
    places = documents[0].key("tests")
    for test, at in zip(read.tests, (places.items() if places is not None else None) or (), strict=True):
        _check(test, at, configuration)
    if report.errors:
        raise ConfigurationError(in_order(report.errors))
    return PolicyTests(configuration, read.tests)


class _File(msgspec.Struct, frozen=True):
    configuration: str
    tests: tuple[PolicyTest, ...]


def _arguments(at: At) -> dict[str, Any] | None:
    if not isinstance(at.node, Mapping):
        at.expected("a mapping")
        return None
    return {key: _plain(entry.node) for key, entry in at.node.entries.items()}


def _plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {key: _plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    return node.value if isinstance(node, Scalar) else None


_DECISIONS: Final = tuple(action.value for action in model.Action)
_decision = choice(_DECISIONS)
_by_rule: Reading[Expected] = Shape(
    Expected, {"decision": _decision, "policy": name, "rule": name}, required=("decision",)
)


def _expected(at: At) -> Expected | None:
    if isinstance(at.node, Mapping):
        return _by_rule(at)
    word = _decision(at)
    return None if word is None else Expected(word)


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """A test as it is written."""

    name: str
    agent: str
    server: str
    expect: Expected
    tool: str | None = None
    prompt: str | None = None
    resource: str | None = None
    method: str | None = None
    arguments: dict[str, Any] | None = None
    claims: tuple[tuple[str, str], ...] = ()
    grants: tuple[RuleName, ...] = ()


def _agent(at: At) -> str | None:
    value = string(at)
    fault = agentnames.fault(value) if value is not None else None
    if fault is not None:
        at.error(f'no caller is named "{shortened(value or "")}"', fault)
        return None
    return value


_shape: Reading[_Made] = Shape(
    _Made,
    {
        "name": string,
        "agent": _agent,
        "claims": pairs(string),
        "server": name,
        **dict.fromkeys(KINDS, string),
        "arguments": _arguments,
        "grants": list_of(Shape(RuleName, {"policy": name, "rule": name}, required=("policy", "rule"))),
        "expect": _expected,
    },
    required=("name", "agent", "server", "expect"),
)


def _test(at: At) -> PolicyTest | None:
    made = _shape(at)
    if made is None:
        return None
    given = [(kind, asked) for kind in KINDS if (asked := getattr(made, kind)) is not None]
    if len(given) != 1:
        at.error("exactly one of `tool`, `prompt`, `resource` and `method` is wanted", "write what the agent asks for")
        return None
    kind, asked = given[0]
    if kind == "resource" and made.arguments is not None:
        at.error("`arguments` has no meaning with `resource`", "a resource is read by its URI alone")
        return None
    return PolicyTest(
        name=made.name,
        agent=made.agent,
        server=made.server,
        kind=kind,
        asked=asked,
        arguments=made.arguments,
        claims=made.claims,
        grants=made.grants,
        expect=made.expect,
    )


_read_tests = some(list_of(_test), "write {name: NAME, agent: AGENT, server: SERVER, tool: TOOL, expect: allow}")


def _tests(at: At) -> tuple[PolicyTest, ...] | None:
    tests = _read_tests(at)
    if isinstance(at.node, Sequence):
        names = (item.key("name") for item in at.items() or ())
        distinct(((value, value.text()) for value in names if value is not None), "test name")
    return tests


_file: Reading[_File] = Shape(_File, {"configuration": file_name, "tests": _tests}, required=("configuration", "tests"))


def _check(test: PolicyTest, at: At, configuration: model.Configuration) -> None:
    """Report what the configuration does not have."""
    servers = [server.name for server in configuration.servers]
    if test.server not in servers:
        _unknown(at.key("server") or at, "server", test.server, servers)
    rules = {policy.name: {rule.name: rule for rule in policy.requests} for policy in configuration.policies}
    expect = at.key("expect") or at
    if test.expect.policy is not None or test.expect.rule is not None:
        _check_rule(expect, test.expect.policy, test.expect.rule, rules)
    grants = at.key("grants")
    for grant, place in zip(test.grants, (grants.items() if grants is not None else None) or (), strict=True):
        rule = _check_rule(place, grant.policy, grant.rule, rules)
        if rule is not None and rule.action is not model.Action.REQUIRE_APPROVAL:
            place.error(f'the rule "{rule.name}" requires no approval', f"its action is {rule.action}")


def _check_rule(
    at: At, policy: str | None, rule: str | None, rules: dict[str, dict[str, model.RequestRule]]
) -> model.RequestRule | None:
    if policy is not None and policy not in rules:
        _unknown(at.key("policy") or at, "policy", policy, rules)
        return None
    known = (
        rules[policy] if policy is not None else {name: one for named in rules.values() for name, one in named.items()}
    )
    if rule is None:
        return None
    if rule not in known:
        _unknown(at.key("rule") or at, "rule", rule, known)
        return None
    return known[rule]


def _unknown(at: At, what: str, word: str, known: Iterable[str]) -> None:
    names = tuple(known)
    hint = did_you_mean(word, names) or (f"one of: {', '.join(names[:10])}" if names else "there are none")
    at.error(f'no {what} is named "{shortened(word)}"', hint)
