"""Rules that work, but probably not as they were meant: what they can never match, and what others leave of them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmcp.config.rulecheck import METHODS, NAMING, uri_fault
from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp.methods import CLIENT_NOTIFICATIONS, CLIENT_REQUESTS
from openmcp.sidecar.mcp.uris import canonical_uri
from tests.config.sources import warnings

HEAD = """identity: {agents: [{type: none}]}
servers: [{name: s, endpoints: ['http://h/']}, {name: t, endpoints: ['http://t/']}]
approvals: {workflows: [{name: w, approvers: ['token:a']}]}
policies:
- {name: open, servers: ['*'], requests: [{name: all, action: allow}]}
"""
"""What comes before: everything is allowed, so that other rules alone are warned of. The next line is line 7."""


LEAVES = (
    '"{}" leaves {} as they are: they are judged by what they name '
    "(select with tools, prompts and resources too, or leave out all selectors for everything)"
)

READING = "resources/read, resources/subscribe, resources/unsubscribe"


def told(policies: str) -> list[str]:
    return [text.replace("policies[1].requests[0]", "RULE") for text in warnings(HEAD + policies)]


def request(keys: str) -> list[str]:
    return told(f"- {{name: p, servers: [s], requests: [{{name: r, {keys}}}]}}")


def response(keys: str) -> list[str]:
    rules = told(f"- {{name: p, servers: [s], responses: [{{name: r, action: block, {keys}}}]}}")
    return [text.replace("policies[1].responses[0]", "RULE") for text in rules]


FULL = "`matches` is held against the whole text: ^ and $ add nothing (where more may follow write .*)"
SLASHES = "the slashes are a part of the pattern (leave them out; for letters of either case begin with (?i))"
BOTH_ENDS = (
    "finds texts alone that are nothing else, since it is anchored at both ends "
    r"(to find it within a text leave out ^ and $, or write \b)"
)
EMPTY = "finds the empty text, and so something in every text (write + for *, or name what must be there)"


def when(*conditions: str) -> str:
    return f"action: deny, when: [{', '.join(f'{{{one}}}' for one in conditions)}]"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (when("path: $.a, op: eq, value: 1", "path: $.b, op: eq, value: 2"), []),
        (
            when("path: $.a, op: lt, value: 1", "path: $.a, op: gt, value: 2"),
            ["7: RULE.when: the conditions on $.a contradict each other: no value meets all of them"],
        ),
        (
            "resources: ['x:*'], " + when("path: $.ticket_id, op: eq, value: 1"),
            [
                "7: RULE.when[0]: $.ticket_id finds nothing: of a resource, conditions see its URI alone "
                "(write path: $.uri)"
            ],
        ),
        ("resources: ['x:*'], " + when("path: $.uri, op: eq, value: a"), []),
        ("resources: ['x:*'], tools: [t], " + when("path: $.ticket_id, op: eq, value: 1"), []),
        (when("path: $.a, op: matches, value: '^a$'"), [f"7: RULE.when[0].value: {FULL}"]),
        (when("path: $.a, op: matches, value: 'a$'"), [f"7: RULE.when[0].value: {FULL}"]),
        (when(r"path: $.a, op: matches, value: 'a\$'"), []),
        (when("path: $.a, op: matches, value: '[^a]b'"), []),
        (when("path: $.a, op: matches, value: /^a$/"), [f"7: RULE.when[0].value: {SLASHES}"]),
        (when("path: $.a, op: matches, value: /usr/my/"), []),
        (when("path: $.a, op: eq, value: ^a$"), []),
        ("action: deny, patterns: [/secret/i]", [f"7: RULE.patterns[0]: {SLASHES}"]),
        ("action: deny, patterns: [/etc/]", []),
        ("action: deny, patterns: ['^a$']", [f"7: RULE.patterns[0]: {BOTH_ENDS}"]),
        ("action: deny, patterns: ['^a', 'b$']", []),
        ("action: deny, patterns: ['x*']", [f"7: RULE.patterns[0]: {EMPTY}"]),
        (
            "action: deny, methods: [tools/call]",
            ["7: RULE.methods[0]: tools/call is judged by what it names, not by its method (select with tools)"],
        ),
        (
            "action: deny, methods: ['tools/lists', 'tasks/*']",
            ['7: RULE.methods[0]: no method of MCP matches "tools/lists"'],
        ),
        (
            "action: deny, resources: ['file:///a/../b']",
            [
                '7: RULE.resources[0]: "file:///a/../b" is not in canonical form: its path has . or .. segments, '
                "which are resolved (a URI is judged in that form too)"
            ],
        ),
        (
            "action: deny, resources: ['x://a/b%2fc']",
            [
                '7: RULE.resources[0]: "x://a/b%2fc" is not in canonical form: %2f is written %2F '
                "(a URI is judged in that form too)"
            ],
        ),
        *(
            (
                f"action: deny, resources: ['{uri}']",
                [f'7: RULE.resources[0]: "{uri}" is not in canonical form: {why} (a URI is judged in that form too)'],
            )
            for uri, why in (
                ("my_notes://%70rivate/a", "%70 is written p"),
                ("file:///a#b", "what is behind # is left out"),
                ("https://internal", "the path of the root is written /"),
                ("https://me@internal/", "user and password, a dot behind the host and the usual port are left out"),
                ("https://internal:443/", "user and password, a dot behind the host and the usual port are left out"),
            )
        ),
        (
            "action: deny, methods: ['resources/*']",
            [f"7: RULE.methods[0]: {LEAVES.format('resources/*', READING)}"],
        ),
        (
            "action: deny, methods: ['*'], tools: ['*'], resources: ['*']",
            [f"7: RULE.methods[0]: {LEAVES.format('*', 'prompts/get, completion/complete')}"],
        ),
        ("action: deny, methods: ['*'], tools: ['*'], prompts: ['*'], resources: ['*']", []),
        ("action: allow, methods: ['*']", []),
        ("action: deny, methods: ['tasks/*', 'resources/templates/*']", []),
        ("action: deny, resources: ['https://internal*', 'https://internal:8443/', 'a://b@c:443']", []),
        (
            "action: requireApproval, tools: [a], approval: {workflow: w, bind: []}",
            [
                "7: RULE.approval.bind: a grant would hold whatever the arguments are "
                "(name what it holds for, or remove the key to bind all)",
                '7: RULE: calls under "r" are never let through: nobody can decide (write approvals.console: {} and '
                "approvals.tokens)",
            ],
        ),
    ],
)
def test_one_request_rule(keys, expected):
    assert request(keys) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (r"detect: [email], patterns: ['\bCUST-[0-9]{8}\b'], except: ['^a@b$', 'x*']", []),
        ("patterns: ['^a$']", [f"7: RULE.patterns[0]: {BOTH_ENDS}"]),
        ("patterns: ['^a$'], paths: [$..id]", []),
        ("patterns: ['a?']", [f"7: RULE.patterns[0]: {EMPTY}"]),
        ("detect: [email], methods: [bogus]", ['7: RULE.methods[0]: no method of MCP matches "bogus"']),
        (
            "detect: [email], resources: ['HTTP://a/']",
            [
                '7: RULE.resources[0]: "HTTP://a/" is not in canonical form: the scheme is written http '
                "(a URI is judged in that form too)"
            ],
        ),
    ],
)
def test_one_response_rule(keys, expected):
    assert response(keys) == expected


def policy(rules: str, servers: str = "s", more: str = "") -> str:
    return f"- {{name: p, servers: [{servers}], {more} requests: [{rules}]}}\n"


DENY_ALL = (
    '- {name: base, servers: ["*"], requests: [{name: none, action: deny, tools: ["delete_*", merge], message: m}]}'
)
NO_EFFECT = 'has no effect{}: rule "none" of policy "base" denies all of it (remove it, or narrow the other)'


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(
            policy("{name: r, action: allow, tools: [merge, delete_a, 'delete_b*']}") + DENY_ALL,
            [f'7: RULE: rule "r" {NO_EFFECT.format("")}'],
            id="an allow rule as a whole",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [get_ticket, delete_a]}") + DENY_ALL,
            [f'7: RULE.tools[1]: "delete_a" {NO_EFFECT.format(" here")}'],
            id="a selector",
        ),
        pytest.param(policy("{name: r, action: allow, tools: ['*']}") + DENY_ALL, [], id="a part of what it allows"),
        pytest.param(policy("{name: r, action: allow, prompts: [merge]}") + DENY_ALL, [], id="another kind"),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}") + DENY_ALL.replace("message: m", "detect: [email]"),
            [],
            id="a denial with conditions",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}") + DENY_ALL.replace("requests", "mode: shadow, requests"),
            [],
            id="a denial in shadow",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}", servers="s, t") + DENY_ALL.replace('"*"', "s"),
            [],
            id="a denial on one of the servers",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}")
            + DENY_ALL.replace("requests", "agents: [anonymous], requests"),
            [],
            id="a denial for some agents",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}", more="agents: [anonymous],")
            + DENY_ALL.replace("requests", "agents: ['anon*'], requests"),
            [f'7: RULE: rule "r" {NO_EFFECT.format("")}'],
            id="a denial for these agents and others",
        ),
        pytest.param(
            policy("{name: r, action: allow, tools: [merge]}, {name: all, action: deny, message: m}"),
            [
                '7: RULE: rule "r" has no effect: rule "all" of policy "p" denies all of it '
                "(remove it, or narrow the other)"
            ],
            id="a denial of everything",
        ),
        pytest.param(
            policy(
                "{name: r, action: allow, tools: [merge]}, {name: q, action: requireApproval, tools: ['m*'], APPROVAL}"
            ),
            [
                '7: RULE: rule "r" has no effect: rule "q" of policy "p" requires approval for all of it '
                "(remove it, or narrow the other)"
            ],
            id="an approval for all of it",
        ),
        pytest.param(
            policy("{name: r, action: deny, tools: [x], message: m}, {name: q, action: deny, tools: [x], message: m}"),
            [],
            id="two denials",
        ),
    ],
)
def test_what_another_rule_leaves_nothing_of(policies, expected):
    found = told(policies.replace("APPROVAL", "approval: {workflow: w}"))
    assert [text for text in found if "nobody can decide" not in text] == expected


NOTHING = (
    '{}: rule "{}" denies nothing that another rule allows (what no rule allows is denied anyway: remove it, or '
    "give it a `message`, which agents are then told)"
)
SERVERS = """identity: {agents: [{type: none}]}
servers: [{name: s, endpoints: ['http://h/']}]
policies:
"""
"""The next line is line 5."""
READ = "{name: r, action: allow, tools: ['get_*']}"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(policy(f"{READ}, {{name: d, action: deny, tools: [get_secret]}}"), [], id="a part"),
        pytest.param(policy(f"{READ}, {{name: d, action: deny, tools: ['*_secret']}}"), [], id="an overlap"),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, tools: ['g*_secret']}}", more="agents: ['*'],"),
            [],
            id="an overlap with what begins longer",
        ),
        pytest.param(policy(f"{READ}, {{name: d, action: deny}}"), ["5: policies[0].requests[0]: rule"], id="all"),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, tools: [delete]}}"), [], id="a guard for all agents, of this kind"
        ),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, prompts: [p]}}"),
            [NOTHING.format("5: policies[0].requests[1]", "d")],
            id="a guard of a kind that nobody may use",
        ),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, tools: [delete]}}", more="agents: ['*'],"),
            [NOTHING.format("5: policies[0].requests[1]", "d")],
            id="for certain agents",
        ),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, tools: [delete], message: no}}", more="agents: ['*'],"),
            [],
            id="with a message",
        ),
        pytest.param(
            policy(f"{READ}, {{name: d, action: deny, methods: [logging/setLevel]}}", more="agents: ['*'],"),
            [],
            id="what every agent may do",
        ),
        pytest.param(
            policy("{name: d, action: deny, tools: [delete]}", servers="x"),
            [
                '3: servers[0]: no policy allows anybody anything on "s" '
                "(write a policy for it with a rule that says action: allow)",
                '5: policies[0].servers[0]: no server is named "x" (there are: s)',
            ],
            id="on no server",
        ),
        pytest.param(
            policy("{name: d, action: deny, tools: [delete]}", more="agents: ['*'],"),
            [
                '3: servers[0]: no policy allows anybody anything on "s" '
                "(write a policy for it with a rule that says action: allow)"
            ],
            id="on a server that nobody may use",
        ),
    ],
)
def test_denials_that_take_nothing(policies, expected):
    found = warnings(SERVERS + policies)
    assert len(found) == len(expected)
    assert all(text.startswith(begin) for text, begin in zip(found, expected, strict=True))


def test_a_denial_for_other_agents_than_the_rule_that_allows():
    keys = f"{{name: a, sha256: {'1' * 64}}}, {{name: b, sha256: {'2' * 64}}}"
    identity = f"identity: {{agents: [{{type: apiKey, keys: [{keys}]}}]}}\n"
    found = warnings(
        identity
        + SERVERS.partition("\n")[2]
        + policy(READ, more="agents: ['key:a'],")
        + policy("{name: d, action: deny, tools: ['get_*']}", more="agents: ['key:b'],").replace("name: p", "name: q")
    )
    assert found == [NOTHING.format("6: policies[1].requests[0]", "d")]


def test_a_server_that_only_shadow_policies_open():
    assert warnings(SERVERS + policy(READ, more="mode: shadow,")) == [
        '3: servers[0]: only policies in mode shadow allow anybody anything on "s" (a policy in mode shadow is '
        "recorded and opens nothing: write mode: enforce, or another policy)"
    ]


def test_agents_that_nobody_can_be():
    assert warnings(SERVERS + policy(READ, more="agents: ['*', {namespace: a}],")) == [
        "5: policies[0].agents[1]: no caller that `identity.agents` identifies has this SPIFFE ID and these claims "
        "(there are: anonymous)"
    ]


AUDIT = "telemetry: {audit: {payloads: redacted}}\n"


def test_payloads_that_no_rule_redacts():
    responses = "- {name: q, servers: [s], responses: [{name: r, action: redact, detect: [email]}]}\n"
    unredacted = [
        "6: telemetry.audit.payloads: no policy has a response rule: messages are recorded as they are, nothing is "
        "redacted (write responses: [{name: NAME, detect: [...], action: redact}] in a policy)"
    ]
    assert warnings(SERVERS + policy(READ) + AUDIT) == unredacted
    shadow = responses.replace("responses", "mode: shadow, responses")
    assert [text[2:] for text in warnings(SERVERS + policy(READ) + shadow + AUDIT)] == [unredacted[0][2:]]
    assert warnings(SERVERS + policy(READ) + responses + AUDIT) == []
    assert warnings(SERVERS + policy(READ) + AUDIT.replace("redacted", "none")) == []


EXAMPLE = """
listen:
  mcp: 127.0.0.1:15001
  admin: 127.0.0.1:15020
  allowedOrigins: []
  allowedHosts: []
identity:
  agents:
    - {type: apiKey, keys: [{name: support-bot, sha256: DIGEST}]}
servers:
  - name: zendesk
    path: /zendesk-mcp
    endpoints: ["https://zendesk-0.mcp.svc:8443/mcp", "https://zendesk-1.mcp.svc:8443/mcp"]
    tls: {ca: {file: ca.pem}, serverName: zendesk.acme.example}
    health: {interval: 10s, timeout: 2s, unhealthyAfter: 3}
    timeouts: {connect: 5s, request: 60s, idle: 5m, stream: 1h}
    limits: {requestBytes: 4MiB, responseBytes: 16MiB, inFlight: 256}
    requireAuth: true
    pinTools: false
policies:
  - name: zendesk-baseline
    servers: [zendesk]
    requests:
      - {name: no-destructive, tools: ["delete_*", "merge_*"], action: deny, message: "destructive tools are off"}
    responses:
      - {name: no-cards, detect: [credit_card, private_key], action: block}
      - name: contact-data
        detect: [email]
        patterns: ['\\bCUST-[0-9]{8}\\b']
        except: ['@acme\\.example$']
        action: redact
  - name: support-bot-tickets
    agents: ["key:support-*"]
    servers: [zendesk]
    mode: enforce
    requests:
      - {name: metadata, tools: [search_tickets, get_ticket_status], action: allow}
      - name: ticket-text
        tools: [get_ticket]
        resources: ["ticket://*/comments"]
        when: [{path: $.ticket_id, op: matches, value: '[0-9]{1,12}'}]
        action: requireApproval
        approval:
          workflow: support-leads
          show: [$.ticket_id]
          bind: [$.ticket_id]
          duration: 30m
          maxDuration: 4h
          maxUses: 20
approvals:
  console: {listen: 127.0.0.1:15021, url: "https://approvals.acme.example"}
  oidc: {issuer: "https://idp.acme.example/", clientId: openmcp, clientSecret: {env: OIDC_SECRET}, groupsClaim: groups}
  tokens: [{name: oncall, sha256: DIGEST}]
  workflows:
    - name: support-leads
      approvers: ["oidc:group:support-leads", "slack:U0123ABC", "email:lead@acme.example", "token:oncall"]
      required: 1
      pendingFor: 30m
      channels: [leads-slack, leads-mail]
  channels:
    - name: leads-slack
      type: slack
      mode: http
      channel: C0123ABC
      token: {env: SLACK_TOKEN}
      signingSecret: {env: SLACK_SIGNING_SECRET}
    - name: leads-mail
      type: email
      to: [leads@acme.example]
      from: openmcp@acme.example
      smtp: {host: mail, port: 587, startTls: true, user: x, password: {env: SMTP_PASSWORD}}
sessions: {key: {file: session.key}, lifetime: 24h}
state: {type: memory}
telemetry:
  audit: {output: stdout, payloads: redacted, onFailure: deny, signingKey: {file: audit.pem}}
  otlp: {endpoint: "http://127.0.0.1:4317"}
  logLevel: info
source: {type: file}
"""
"""A support bot's whole configuration, with all that this version has."""


def test_a_whole_configuration_is_warned_of_nothing():
    assert warnings(EXAMPLE.replace("DIGEST", "1" * 64)) == []


URIS = st.text("ab%2eEfF./:A", max_size=10)


@given(rest=URIS, scheme=st.sampled_from(["file:", "x:", "x://", "file://", "file:///", "http://a/", "note:/"]))
@example(rest="/%2f", scheme="x:")
@example(rest="localhost/a", scheme="file://")
@example(rest="%2", scheme="x:")
def test_what_is_called_canonical_is_what_the_engine_judges(rest, scheme):
    uri = scheme + rest
    try:
        canonical = canonical_uri(uri)
    except Refused:
        return
    fault = uri_fault(uri)
    if fault is not None:
        assert canonical != uri
    elif not scheme.startswith("file:"):  # whose forms with other than three slashes are left alone
        assert canonical == uri


def test_the_methods_that_selectors_know_are_those_of_the_protocol():
    known = set().union(*CLIENT_REQUESTS.values(), *CLIENT_NOTIFICATIONS.values())
    assert set(METHODS) | set(NAMING) == known
