"""Agents of a policy: names by glob, parts of SPIFFE IDs, claims; what does not fit exactly does not match."""

from typing import Any

import pytest

from openmcp.config.model import AgentSelector
from openmcp.identity.principal import Principal
from openmcp.sidecar.policy.agents import Agents, parse

BOT = "spiffe://prod.acme.example/ns/support-ai/sa/bot"


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ({"trust_domain": "prod.acme.example"}, True),
        ({"trust_domain": "*.acme.example"}, True),
        ({"trust_domain": "acme.example"}, False),
        ({"namespace": "support-ai"}, True),
        ({"namespace": "support-*"}, True),
        ({"namespace": "support"}, False),
        ({"service_account": "bot"}, True),
        ({"service_account": "b?t", "namespace": "*", "trust_domain": "prod*"}, True),
        ({"service_account": "bot", "namespace": "sales"}, False),
        ({"service_account": "bot", "trust_domain": "dev.acme.example"}, False),
        ({"namespace": "support-ai/sa/bot"}, False),
    ],
)
def test_the_parts_of_a_spiffe_id(selector: dict[str, str], matching: bool) -> None:
    assert Agents([AgentSelector(**selector)]).match(Principal(BOT, "mtls")) is matching


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://prod/ns/a/sa/b/more",
        "spiffe://prod/sa/b/ns/a",
        "spiffe://prod/ns/a",
        "spiffe://prod/ns//sa/b",
        "spiffe://prod/ns/a/sa/b/",
        "spiffe://prod/ns/../sa/b",
        "spiffe://PROD/ns/a/sa/b",
        "spiffe://prod:1/ns/a/sa/b",
        "spiffe://u@prod/ns/a/sa/b",
        "spiffe://prod/ns/a/sa/b?x",
        "spiffe://prod/ns/a/sa/b\n",
        "spiffe://prod/ns/%61/sa/b",
        "SPIFFE://prod/ns/a/sa/b",
        "key:spiffe://prod/ns/a/sa/b",
        "jwt:https://idp/#spiffe://prod/ns/a/sa/b",
        "key:a",
        "anonymous",
        "",
    ],
)
def test_another_name_has_no_namespace_and_no_service_account(name: str) -> None:
    for selector in ({"namespace": "*"}, {"service_account": "*"}):
        assert not Agents([AgentSelector(**selector)]).match(Principal(name, "mtls"))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("spiffe://prod", ("prod", [])),
        ("spiffe://prod/web", ("prod", ["web"])),
        ("spiffe://prod/ns/a/sa/b", ("prod", ["ns", "a", "sa", "b"])),
        ("spiffe://prod/..", None),
        ("spiffe://prod/a/./b", None),
        ("spiffe://prod/", None),
        ("spiffe:///a", None),
        ("https://prod/a", None),
    ],
)
def test_a_trust_domain_is_that_of_any_spiffe_id(name: str, parsed: Any) -> None:
    assert parse(name) == parsed
    assert Agents([AgentSelector(trust_domain="prod")]).match(Principal(name, "mtls")) is (parsed is not None)


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        ({"team": "support"}, True),
        ({"team": "sup*"}, True),
        ({"team": "sales"}, False),
        ({"Team": "support"}, False),
        ({"group": "a"}, True),
        ({"group": "b"}, True),
        ({"group": "c"}, False),
        ({"team": "support", "group": "b"}, True),
        ({"team": "support", "group": "c"}, False),
        ({"absent": "*"}, False),
    ],
)
def test_claims(wanted: dict[str, str], matching: bool) -> None:
    claims = (("group", "a"), ("group", "b"), ("team", "support"))
    agents = Agents([AgentSelector(claims=tuple(wanted.items()))])
    assert agents.match(Principal("jwt:https://idp/#ann", "jwt", claims)) is matching
    assert not agents.match(Principal("jwt:https://idp/#ann", "jwt"))


def test_all_that_is_given_must_match_and_any_of_the_entries() -> None:
    both = AgentSelector(namespace="support-ai", claims=(("team", "a"),))
    assert Agents([both]).match(Principal(BOT, "mtls", (("team", "a"),)))
    assert not Agents([both]).match(Principal(BOT, "mtls"))
    assert not Agents([both]).match(Principal("key:x", "apiKey", (("team", "a"),)))
    assert Agents([both, "key:*"]).match(Principal("key:x", "apiKey"))
    assert Agents([]).match(Principal("anonymous", "none"))
