"""`timeouts.tools`, `retries`, `outliers` and `rateLimit` of a server: what is refused, and what is odd."""

import pytest

from tests.config.sources import check, errors, good, server, warnings

POLICY = "policies: [{name: p, servers: [s], requests: [{name: r, action: allow}]}]\n"
AGENTS = "identity: {agents: [{type: none}]}\n"


@check(
    {
        "tool": (
            server("timeouts: {tools: {report_*: 5}}"),
            "4: servers[0].timeouts.tools.report_*: a duration needs a unit, found 5 (one of ms, s, m, h: 30s)",
        ),
        "no tools": (
            server("timeouts: {tools: {}}"),
            "4: servers[0].timeouts.tools: an empty mapping (remove the key or fill it)",
        ),
        "attempts": (
            server("retries: {attempts: 0}"),
            "4: servers[0].retries.attempts: must be between 1 and 10, found 0",
        ),
        "retried tools": (
            server("retries: {tools: []}"),
            "4: servers[0].retries.tools: an empty list (name tools, or remove the key)",
        ),
        "budget": (
            server("retries: {budget: 20}"),
            "4: servers[0].retries.budget: must be between 0 and 1, found 20 (0.25 is a quarter)",
        ),
        "by": (
            server("rateLimit: [{requests: 1, per: 1s, by: [agents]}]"),
            '4: servers[0].rateLimit[0].by[0]: unknown by[0] "agents" (did you mean "agent"?)',
        ),
        "by twice": (
            server("rateLimit: [{requests: 1, per: 1s, by: [agent, agent]}]"),
            '4: servers[0].rateLimit[0].by[1]: duplicate word "agent" (first at line 4)',
        ),
        "what": (
            server("rateLimit: [{by: [agent]}]"),
            "4: servers[0].rateLimit[0]: `requests` is required",
            "4: servers[0].rateLimit[0]: `per` is required",
        ),
        "shared": (
            server("rateLimit: [{requests: 1, per: 1s, shared: true}]"),
            "4: servers[0].rateLimit[0].shared: a shared limit is counted in Redis, and `state` is another one "
            "(write state: {type: redis, url: ...})",
        ),
    }
)
def test_refused(text: str, expected: list[str]) -> None:
    assert errors(text) == expected


def test_a_shared_limit_is_accepted_where_the_state_is_in_redis() -> None:
    text = (
        server("rateLimit: [{requests: 1, per: 1s, shared: true}]") + "state: {type: redis, url: 'redis://127.0.0.1'}\n"
    )
    assert good(text).configuration.servers[0].rate_limit[0].shared


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "retries: {tools: ['*']}",
            "4: servers[0].retries.tools[0]: every tool is called again when its answer is lost: one that has an "
            "effect may have it twice (name those that may be called twice: search_*, get_*)",
        ),
        (
            "outliers: {failures: 5}",
            "4: servers[0].outliers: no endpoint is ever left out: 0.5 of 1 is less than one "
            "(with maxEjected: 1 all of them may be, and calls are then refused at once)",
        ),
        (
            "rateLimit: [{agents: ['key:*'], requests: 1, per: 1s}]",
            '4: servers[0].rateLimit[0].agents[0]: no caller that `identity.agents` identifies is named "key:*"',
        ),
    ],
)
def test_odd(line: str, expected: str) -> None:
    assert warnings(server(line) + AGENTS + POLICY) == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "retries: {tools: ['get_*']}",
        "outliers: {maxEjected: 1}",
        "rateLimit: [{agents: [anonymous], requests: 1, per: 1s}]",
    ],
)
def test_usual(line: str) -> None:
    assert warnings(server(line) + AGENTS + POLICY) == []
