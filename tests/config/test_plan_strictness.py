"""No plan lets anybody in whom the configuration keeps out: configurations and callers of every kind, made at random,
known and judged by the sidecar's own code on one side, by Envoy's rules on the other."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmcp.config.model import (
    Action,
    AgentSelector,
    ApiKey,
    ApiKeyAgents,
    Approval,
    Condition,
    Configuration,
    Identity,
    Jwks,
    JwtAgents,
    JwtSvidAgents,
    Listen,
    MtlsAgents,
    NoneAgents,
    Operator,
    Policy,
    RequestRule,
    Server,
)
from openmcp.config.plan import CannotPlan, Target, plan
from openmcp.identity import agents, jose
from openmcp.identity.connection import Mtls
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.jwt_svid import JwtSvids
from openmcp.identity.peer import Peer, PeerCertificate
from openmcp.identity.principal import ANONYMOUS, Principal
from openmcp.identity.refusal import KeysNeeded, Refused, Unavailable
from openmcp.identity.spiffe_id import parse_workload
from openmcp.sidecar.mcp.values import Subject
from openmcp.sidecar.policy.agents import Agents
from openmcp.sidecar.policy.decision import ALLOW
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.types import Kind
from tests.config.envoy_rules import Asking, lets_call, lets_in
from tests.fakes.pki import jwks, jwt_key, mint_jwt

KEY = jwt_key(algorithm="ES256")
IDP, OTHER = "https://idp.example", "https://other.example/a.b"
NAMES = ("one", "two", "1e3")
API_KEYS = tuple(ApiKey(name=name, sha256=hashlib.sha256(f"{name}-key".encode()).hexdigest()) for name in NAMES)
METHODS = (
    MtlsAgents(trust_domains=("td.example",)),
    MtlsAgents(trust_domains=("td.example", "more.example")),
    JwtAgents(issuer=IDP, audience=("openmcp",), jwks=Jwks(file="k")),
    JwtAgents(issuer=OTHER, audience=("openmcp", "b"), jwks=Jwks(file="k"), principal_claim="mail"),
    JwtAgents(issuer=OTHER, audience=("openmcp",), jwks=Jwks(file="k"), principal_claim="acme.id"),
    JwtAgents(issuer=IDP, audience=("b",), jwks=Jwks(file="k")),
    ApiKeyAgents(keys=API_KEYS[:1]),
    ApiKeyAgents(keys=API_KEYS),
    JwtSvidAgents(audience="openmcp", trust_domains=("td.example",)),
    NoneAgents(),
)
AGENTS: tuple[str | AgentSelector, ...] = (
    "*", "a*", "anonymous", "key:*", "key:one", "key:t?o", "key:1*", "jwt:*", f"jwt:{IDP}#*", f"jwt:{IDP}#alice",
    f"jwt:{IDP}#team-*", f"jwt:{IDP}#*-x", f"jwt:{IDP}#a*e", f"jwt:{OTHER}#alice", "jwt:*#alice", "spiffe://*",
    "spiffe://td.example/*", "spiffe://td.example/ns/a/sa/b", "spiffe://*/ns/a/sa/b", "spiffe://td.example/ns/*/sa/b",
    "spiffe://td.example/ns/a/*", "spiffe://td*", "spiffe://more.example/?",
    AgentSelector(trust_domain="td.example"), AgentSelector(trust_domain="*.example"),
    AgentSelector(namespace="a", service_account="b"), AgentSelector(namespace="a/sa/b", service_account="c"),
    AgentSelector(namespace="a"), AgentSelector(trust_domain="td.example", namespace="*", service_account="b"),
    AgentSelector(claims=(("group", "ops"),)), AgentSelector(claims=(("group", "*"),)),
    AgentSelector(claims=(("nonce", "ops"),)), AgentSelector(claims=(("acme.id", "alice"),)),
    AgentSelector(claims=(("group", "ops"), ("sub", "alice"))), AgentSelector(claims=(("iss", IDP),)),
    AgentSelector(trust_domain="td.example", claims=(("group", "ops"),)),
)  # fmt: skip
WHEN = Condition(path="$.x", op=Operator.EQ, value=1)
SELECTORS: tuple[dict[str, Any], ...] = (
    {}, {}, {"tools": ("t",)}, {"tools": ("t*", "?")}, {"tools": ("*",)}, {"when": (WHEN,)}, {"methods": ("*",)},
    {"tools": ("u",), "when": (WHEN,)}, {"resources": ("*",)}, {"prompts": ("p",)}, {"detect": ("email",)},
)  # fmt: skip
TEXTS = st.sampled_from(("alice", "team-a", "team-#x", "b-x", "-x", " alice", "ae", "", "ops", "spiffe://td.example/a"))
CLAIMS = st.fixed_dictionaries(
    {
        "aud": st.sampled_from(("openmcp", "openmcp", ["b"], "else", ["openmcp", "else"], None)),
        "iss": st.sampled_from((IDP, IDP, OTHER, OTHER, "https://else.example")),
    },
    optional={
        "sub": TEXTS | st.sampled_from((["alice"], 7, None)),
        "mail": TEXTS,
        "group": st.sampled_from(("ops", "dev", ["ops"], ["dev", "ops"], 1)),
        "nonce": st.just("ops"),
        "acme.id": TEXTS,
        "acme": st.fixed_dictionaries({"id": TEXTS}),
        "exp": st.none(),
        "cnf": st.just({"jkt": "x"}),
    },
)
CERTIFICATES = st.sampled_from(
    (
        None, "spiffe://td.example/ns/a/sa/b", "spiffe://td.example/ns/a/sa/b/sa/c", "spiffe://td.example/x",
        "spiffe://more.example/y", "spiffe://else.example/ns/a/sa/b", "spiffe://td.example/ns/c/sa/b",
    )
)  # fmt: skip


@st.composite
def rules(draw: st.DrawFn) -> RequestRule:
    action = draw(st.sampled_from(Action))
    asked = Approval(workflow="w") if action is Action.REQUIRE_APPROVAL else None
    return RequestRule(
        name=f"r{draw(st.integers(0, 9))}", action=action, approval=asked, **draw(st.sampled_from(SELECTORS))
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(
        name="p",
        servers=(draw(st.sampled_from(("*", "s", "?", "other"))),),
        agents=tuple(draw(st.lists(st.sampled_from(AGENTS), max_size=3))),
        mode=draw(st.sampled_from(("enforce", "enforce", "shadow"))),
        requests=tuple(draw(st.lists(rules(), min_size=1, max_size=3))),
    )


def _with_a_basis(some: list[Policy]) -> st.SearchStrategy[tuple[Policy, ...]]:
    """Often everybody may do something, so that what matters is who is kept out."""
    everything = Policy(name="all", servers=("s",), requests=(RequestRule(name="all", action=Action.ALLOW),))
    return st.sampled_from(((), (everything,))).map(lambda first: (*first, *some))


def configurations(methods: tuple[Any, ...] = METHODS) -> st.SearchStrategy[Configuration]:
    server = st.builds(
        Server,
        name=st.just("s"),
        path=st.just("/s"),
        endpoints=st.just(("http://s.svc/mcp",)),
        require_auth=st.booleans(),
    )
    return st.builds(
        Configuration,
        listen=st.builds(
            Listen,
            url=st.sampled_from(("https://g.example", "https://g.example:8443")),
            allowed_hosts=st.sampled_from(((), ("more.example:8443",))),
            allowed_origins=st.sampled_from(((), ("https://app.example",))),
        ),
        identity=st.builds(
            Identity, agents=st.lists(st.sampled_from(methods), min_size=1, max_size=4, unique=True).map(tuple)
        ),
        servers=server.map(lambda one: (one,)),
        policies=st.lists(policies(), min_size=1, max_size=4).flatmap(_with_a_basis),
    )


class _NoBundles:
    """A Workload API that gives no keys of trust domains."""

    jwt_generation = 1
    jwt_bundles: ClassVar[dict[str, bytes]] = {}

    def want_jwt_bundles(self) -> None: ...


class _Keys:
    """The key set of every issuer."""

    generation = 1

    def __init__(self) -> None:
        self._keys = jose.key_set(jwks(KEY, use="sig"), frozenset(("sig",)))

    def current(self) -> jose.KeySet:
        return self._keys

    def may_refresh(self) -> bool:
        return False

    async def refresh(self) -> None: ...


KEYS = _Keys()


def identifier(identity: Identity) -> agents.Identifier:
    """The callers that a sidecar would know, by its own code; it has no keys for JWT-SVIDs here, and refuses them."""
    made: list[agents.Method] = []
    for method in identity.agents:
        if isinstance(method, MtlsAgents):
            made.append(Mtls(method.trust_domains))
        elif isinstance(method, JwtSvidAgents):
            made.append(JwtSvids(_NoBundles(), method.audience, method.trust_domains))
        elif isinstance(method, JwtAgents):
            made.append(Jwts(Terms(method.issuer, method.audience, method.principal_claim), KEYS))
        elif isinstance(method, ApiKeyAgents):
            made.append(agents.ApiKeys((key.name, key.sha256) for key in method.keys))
        elif isinstance(method, NoneAgents):
            made.append(agents.Anyone())
    return agents.build(made)


def known(configuration: Configuration, headers: Mapping[str, str], certificate: str | None) -> Iterator[Principal]:
    """Whom the sidecar may take a caller for who presents some of these proofs."""
    who = identifier(configuration.identity)
    (server,) = configuration.servers
    proofs = [one for one in ("authorization", "x-api-key") if one in headers] + ["certificate"] * bool(certificate)
    for some in itertools.chain.from_iterable(itertools.combinations(proofs, size) for size in range(len(proofs) + 1)):
        found = PeerCertificate(parse_workload(certificate or ""), b"", 1e11) if "certificate" in some else None
        presented = {one.encode(): headers[one].encode() for one in some if one != "certificate"}
        try:
            principal = who.identify(presented, Peer("10.0.0.1", found))
        except (Refused, Unavailable, KeysNeeded):
            continue
        if principal is not None or not server.require_auth:
            yield principal or ANONYMOUS


def may_use(configuration: Configuration, principal: Principal) -> bool:
    """Whether policy allows somebody something here, and no rule denies everything."""
    mine = [
        rule
        for policy in configuration.policies
        if policy.mode == "enforce" and policy.servers[0] != "other" and Agents(policy.agents).match(principal)
        for rule in policy.requests
    ]
    whole = [
        rule
        for rule in mine
        if not (rule.tools or rule.prompts or rule.resources or rule.methods or rule.when or rule.detect)
    ]
    usable = PolicySet(configuration.policies).rules_for(principal, "s").usable
    allows = any(rule.action is Action.ALLOW for rule in mine)
    return usable and allows and not any(rule.action is Action.DENY for rule in whole)


CALLERS = st.fixed_dictionaries(
    {
        "key": st.sampled_from((None, None, "one-key", "two-key", "1e3-key", "else")),
        "claims": st.none() | CLAIMS,
        "bearer": st.sampled_from((None, None, "one-key", "else", "Basic")),
        "certificate": CERTIFICATES,
        "origin": st.sampled_from((None,) * 5 + ("https://app.example", "https://evil.example", "null")),
        "host": st.sampled_from(("g.example",) * 5 + ("more.example", "evil.example")),
    }
)


def asking(caller: Mapping[str, Any]) -> Asking:
    headers = {"host": caller["host"]}
    if caller["key"]:
        headers["x-api-key"] = caller["key"]
    if caller["origin"]:
        headers["origin"] = caller["origin"]
    claims = caller["claims"]
    if claims is not None:
        token = mint_jwt(KEY, claims)
        headers["authorization"] = f"Bearer {token}"
        claims = jose.read(token.encode()).claims
    elif caller["bearer"]:
        headers["authorization"] = "Basic eDp5" if caller["bearer"] == "Basic" else f"Bearer {caller['bearer']}"
    keys = {f"{name}-key": name for name in NAMES}
    return Asking("/s", headers, caller["certificate"], claims, keys, caller["host"])


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), st.lists(CALLERS, min_size=1, max_size=8))
def test_nobody_is_let_in_who_may_not_use_the_server(
    configuration: Configuration, callers: list[dict[str, Any]]
) -> None:
    made = plan(configuration, Target())
    for request in map(asking, callers):
        if not lets_in(made, request):
            continue
        listen = configuration.listen
        assert request.headers.get("origin") in (None, *listen.allowed_origins)
        assert request.host in ("g.example", *(host.partition(":")[0] for host in listen.allowed_hosts))
        principals = list(known(configuration, request.headers, request.certificate))
        assert any(may_use(configuration, principal) for principal in principals), (request, principals)


@pytest.mark.parametrize("agent", [*AGENTS, "jwt:*#t?am-*", "spiffe://*/x", "spiffe://td.example/ns/?/sa/*"], ids=str)
def test_who_is_denied_everything_is_not_let_in(agent: str | AgentSelector) -> None:
    everything = Policy(name="all", servers=("*",), requests=(RequestRule(name="all", action=Action.ALLOW),))
    nothing = Policy(name="no", servers=("s",), agents=(agent,), requests=(RequestRule(name="no", action=Action.DENY),))
    configuration = Configuration(
        listen=Listen(url="https://g.example"),
        identity=Identity(agents=(METHODS[0], METHODS[2], METHODS[3], METHODS[7])),
        servers=(Server(name="s", path="/s", endpoints=("http://s.svc/mcp",)),),
        policies=(everything, nothing),
    )
    made = plan(configuration, Target())
    plain: dict[str, Any] = dict.fromkeys(("key", "claims", "bearer", "certificate", "origin")) | {"host": "g.example"}
    callers = [{"key": f"{name}-key"} for name in NAMES]
    callers += [{"claims": {"aud": "openmcp", "iss": IDP, "sub": name}} for name in ("alice", "team-a", "b-x", "ae")]
    callers += [{"claims": {"aud": "openmcp", "iss": OTHER, "mail": name, "group": "ops"}} for name in ("alice", "b")]
    callers += [{"certificate": f"spiffe://td.example/{path}"} for path in ("x", "ns/a/sa/b", "ns/c/sa/b")]
    let_in = [request for request in (asking(plain | caller) for caller in callers) if lets_in(made, request)]
    for request in let_in:
        (principal,) = [
            one for one in known(configuration, request.headers, request.certificate) if one is not ANONYMOUS
        ]
        assert may_use(configuration, principal), principal


@pytest.mark.parametrize("ai", [False, True])
def test_a_token_that_says_it_is_a_jwt_svid_is_not_for_its_issuer(ai: bool) -> None:
    everything = Policy(name="all", servers=("*",), requests=(RequestRule(name="all", action=Action.ALLOW),))
    configuration = Configuration(
        listen=Listen(url="https://g.example"),
        identity=Identity(agents=(METHODS[8], METHODS[2])),
        servers=(Server(name="s", path="/s", endpoints=("http://s.svc/mcp",)),),
        policies=(everything,),
    )
    made = plan(configuration, Target(ai_gateway=ai))
    plain: dict[str, Any] = dict.fromkeys(("key", "bearer", "certificate", "origin")) | {"host": "g.example"}
    for subject, let_in in (("alice", True), ("spiffe://td.example/a", False)):
        request = asking(plain | {"claims": {"aud": "openmcp", "iss": IDP, "sub": subject}})
        assert (lets_call(made, request, "t") if ai else lets_in(made, request)) is let_in
        assert bool(list(known(configuration, request.headers, None))) is let_in


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    configurations(),
    st.lists(
        st.tuples(CALLERS, st.sampled_from(("t", "u", "tx", "delete")), st.sampled_from(({}, {"x": 1}))), min_size=1
    ),
)
def test_nothing_is_called_that_policy_denies(configuration: Configuration, calls: list[Any]) -> None:
    try:
        made = plan(configuration, Target(ai_gateway=True))
    except CannotPlan:
        return
    engine = PolicySet(configuration.policies)
    for caller, tool, arguments in calls:
        request = asking(caller)
        if not lets_call(made, request, tool):
            continue
        assert request.headers.get("origin") in (None, *configuration.listen.allowed_origins)
        subjects = (Subject(Kind.TOOL, tool),)
        assert any(
            engine.decide(principal, "s", subjects, arguments).verdict is ALLOW
            for principal in known(configuration, request.headers, request.certificate)
        ), (request, tool, arguments)
