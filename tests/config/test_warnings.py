"""What works, but probably not as it was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config import ConfigurationError
from openmcp.identity.globs import matches
from openmcp.sidecar.policy.globs import GlobSet
from tests.config.sources import single, warnings

IDENTITY = "identity: {agents: [{type: none}]}\n"
SERVER = "servers: [{name: s, endpoints: ['http://h/']}]\n"
ALLOW = "requests: [{name: r, action: allow}]"
OPEN = f"policies: [{{name: open, servers: ['*'], {ALLOW}}}]\n"
GLOBS = "(globs know * for any text and ? for one character; everything else stands for itself)"


def rule(selector: str) -> str:
    """A configuration whose only rule, on line 4, has this selector."""
    return (
        f"{IDENTITY}{SERVER}policies: [{{name: p, servers: [s], requests: [{{name: r, action: allow, {selector}}}]}}]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(IDENTITY + SERVER + OPEN, [], id="nothing odd"),
        pytest.param(
            SERVER + OPEN,
            [
                " identity.agents: no caller can be identified: every call is refused with 401 (write agents: "
                "[{type: apiKey, keys: [...]}], or agents: [{type: none}] where everybody may call)"
            ],
            id="no agents",
        ),
        pytest.param(
            IDENTITY + SERVER,
            [
                '3: servers[0]: no policy allows anybody anything on "s" '
                "(write a policy for it with a rule that says action: allow)"
            ],
            id="server without policy",
        ),
        pytest.param(
            f"{IDENTITY}{SERVER}{OPEN.replace('allow', 'deny')}",
            [
                '3: servers[0]: no policy allows anybody anything on "s" '
                "(write a policy for it with a rule that says action: allow)"
            ],
            id="server with denials alone",
        ),
        pytest.param(
            f"{IDENTITY}{SERVER}policies: [{{name: p, servers: ['*', x], {ALLOW}}}]",
            ['4: policies[0].servers[1]: no server is named "x" (there are: s)'],
            id="unknown server",
        ),
        pytest.param(
            f"{IDENTITY}{SERVER}policies: [{{name: p, servers: [s], agents: ['key:*'], {ALLOW}}}]",
            [
                '4: policies[0].agents[0]: no caller that `identity.agents` identifies is named "key:*" '
                "(there are: anonymous)"
            ],
            id="unknown agent",
        ),
        pytest.param(
            f"{IDENTITY}{SERVER}policies: [{{name: open, servers: [s], {ALLOW}}}, {{name: p, servers: [s]}}]",
            ['4: policies[1]: policy "p" has no rules'],
            id="policy without rules",
        ),
        pytest.param(
            f"{IDENTITY}{OPEN}servers: [{{name: s, endpoints: ['http://h/'], health: {{timeout: 11s}}}}]",
            ["4: servers[0].health: the timeout is longer than the interval"],
            id="health",
        ),
        pytest.param(
            "listen: {mcp: 0.0.0.0:15001}",
            [
                "2: listen.mcp: clients that call this machine by a name are refused: 0.0.0.0:15001 is reached from "
                "elsewhere and `allowedHosts` is empty (write the names that clients use: "
                "allowedHosts: [gateway.example])"
            ],
            id="hosts",
        ),
        pytest.param("listen: {mcp: 0.0.0.0:15001, allowedHosts: [g.example]}", [], id="hosts named"),
        pytest.param("listen: {mcp: '[::1]:15001'}", [], id="loopback"),
        pytest.param(
            rule("tools: ['get_.*']"),
            [f'4: policies[0].requests[0].tools[0]: looks like a regular expression: "get_.*" holds .* {GLOBS}'],
            id="regular expression",
        ),
        pytest.param(
            rule("prompts: ['^a|b$']"),
            [f'4: policies[0].requests[0].prompts[0]: looks like a regular expression: "^a|b$" holds ^ {GLOBS}'],
            id="anchors",
        ),
        pytest.param(
            rule("resources: ['file://a\\d']"),
            [
                "4: policies[0].requests[0].resources[0]: looks like a regular expression: "
                f'"file://a\\d" holds \\d {GLOBS}'
            ],
            id="class",
        ),
        pytest.param(rule("resources: ['ticket://*/a.b(c)[0]?x=$y&z']"), [], id="a URI may hold much"),
        pytest.param(rule("methods: ['tools/*', 'tasks/get']"), [], id="methods"),
    ],
)
def test_warnings(text, expected):
    assert warnings(text) == expected


def test_warnings_are_told_beside_errors():
    found = single(rule("tools: ['.*']") + "\npolices: []")
    assert isinstance(found, ConfigurationError)
    assert [problem.path for problem in found.warnings] == ["policies[0].requests[0].tools[0]"]


TEXTS = st.text("ab*?", max_size=8)


@given(glob=TEXTS, text=TEXTS)
def test_globs_match_as_policy_does(glob, text):
    assert matches(glob, text) == GlobSet([glob]).matches(text)


def test_globs_take_no_long_time():
    assert not matches("*a" * 500 + "b", "a" * 2000)
