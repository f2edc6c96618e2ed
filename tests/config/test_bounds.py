"""Lists, mappings and texts have bounds, the same in gateway.yaml and in objects of Kubernetes."""

import json

import pytest

from tests.config.sources import errors, good, rule, server


def many(count: int, what: str = "x") -> str:
    return json.dumps([f"{what}{number}" for number in range(count)])


def test_a_list_has_at_most_a_thousand_entries():
    text = "{{name: r, action: deny, tools: {}}}"
    assert len(good(rule(text.format(many(1000)))).configuration.policies[0].requests[0].tools) == 1000
    assert errors(rule(text.format(many(1001)))) == [
        "5: policies[0].requests[0].tools: a list of 1001 entries (at most 1000)"
    ]


def test_a_server_has_at_most_a_hundred_endpoints():
    text = "servers: [{{name: s, endpoints: {}}}]"
    assert len(good(text.format(many(100, "http://h/"))).configuration.servers[0].endpoints) == 100
    assert errors(text.format(many(101, "http://h/"))) == [
        "2: servers[0].endpoints: a list of 101 entries (at most 100)"
    ]


def test_a_rule_has_at_most_a_hundred_conditions():
    text = "{{name: r, action: deny, when: {}}}"
    conditions = [{"path": "$.a", "op": "ne", "value": number} for number in range(101)]
    good(rule(text.format(json.dumps(conditions[1:]))))
    assert errors(rule(text.format(json.dumps(conditions)))) == [
        "5: policies[0].requests[0].when: a list of 101 entries (at most 100)"
    ]


def test_a_mapping_has_at_most_a_thousand_keys():
    tools = {f"tool{number}": "0" * 64 for number in range(1001)}
    assert errors(server(f"pinTools: {{tools: {json.dumps(tools)}}}")) == [
        "4: servers[0].pinTools.tools: a mapping of 1001 keys (at most 1000)"
    ]
    tools.popitem()
    good(server(f"pinTools: {{tools: {json.dumps(tools)}}}"))


@pytest.mark.parametrize(
    ("key", "most"),
    [("message: ", 4096), ("patterns: [{}]", 65_536), ("tools: [{}]", 4096)],
    ids=["message", "RE2", "glob"],
)
def test_a_text_has_a_length(key, most):
    text = f"{{name: r, action: deny, {key if '{}' in key else key + '{}'}}}".replace("{}", "§")
    good(rule(text.replace("§", "x" * most)))
    (message,) = errors(rule(text.replace("§", "x" * (most + 1))))
    assert message.endswith(f": a text of {most + 1} characters (at most {most})")


def test_a_url_has_a_length():
    host = "http://h/"
    good(f"servers: [{{name: s, endpoints: ['{host}{'x' * (2048 - len(host))}']}}]")
    (message,) = errors(f"servers: [{{name: s, endpoints: ['{host}{'x' * (2049 - len(host))}']}}]")
    assert message.endswith("(at most 2048 characters)")


@pytest.mark.parametrize(("value", "taken"), [("876000h", True), ("876001h", False), ("999999999m", False)])
def test_a_duration_is_at_most_a_hundred_years(value, taken):
    line = server(f"timeouts: {{stream: {value}}}")
    if taken:
        assert good(line).configuration.servers[0].timeouts.stream == 876_000 * 3600
    else:
        assert errors(line) == [f"4: servers[0].timeouts.stream: must be at most 876000h, found {value}"]


def test_ten_thousand_agents_may_have_keys():
    keys = [{"name": f"k{number}", "sha256": f"{number:064x}"} for number in range(10_000)]
    made = good(f"identity: {{agents: [{{type: apiKey, keys: {json.dumps(keys)}}}]}}").configuration
    (method,) = made.identity.agents
    assert len(getattr(method, "keys", ())) == 10_000
