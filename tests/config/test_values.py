"""What is accepted, and the values it becomes."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmcp.config import ConfigurationError, Loaded, model
from tests.config.sources import HEAD, errors, good, outcome, server, single

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

EVERYTHING = f"""
listen:
  mcp: "[::1]:0"
  admin: localhost:9000
  allowedOrigins: ["https://App.example:8443"]
  allowedHosts: [Gateway.example, "10.0.0.1:15001"]
identity:
  agents:
    - type: apiKey
      keys:
        - {{name: ci-bot, sha256: {DIGEST}}}
    - {{type: none}}
servers:
  - name: zendesk
    path: /zendesk-mcp
    endpoints: ["https://z-0.svc:8443/mcp", "https://z-1.svc:8443/mcp"]
    tls: {{ca: {{file: pki/ca.pem}}, serverName: zendesk.example}}
    health: {{interval: 20s, timeout: 500ms, unhealthyAfter: 5}}
    timeouts: {{connect: 1s, request: 2m, idle: 1h, stream: 4h, tools: {{report_*: 5m}}}}
    retries: {{attempts: 3, tools: ["get_*"], backoff: 50ms, budget: 0.5}}
    outliers: {{failures: 3, ejectFor: 1m, maxEjected: 1}}
    rateLimit: [{{by: [agent, tool], requests: 100, per: 1m, burst: 20, tools: ["get_*"]}}, {{requests: 5, per: 1s}}]
    limits: {{requestBytes: 64KiB, responseBytes: 1GiB, inFlight: 7}}
    requireAuth: false
    translate: true
    transport: sse
    compat: {{sse: true}}
    pinTools: {{tools: {{get_ticket: {DIGEST}}}, file: pins.json}}
  - name: other
    endpoints: ["http://127.0.0.1:9/"]
policies:
  - name: base
    servers: [zendesk, "o*"]
    agents: ["key:*", anonymous]
    mode: enforce
    requests:
      - {{name: tools, tools: ["get_*"], action: allow}}
      - {{name: rest, prompts: [p], resources: ["t://*/x"], methods: [logging/setLevel], action: deny, message: no}}
      - name: gated
        tools: [merge]
        when:
          - {{path: $.ticket_id, op: matches, value: "[0-9]{{1,12}}"}}
          - {{path: "$['a.b'][*]", op: in, value: [1, "1", true, null]}}
        detect: [email]
        patterns: ['\\bCUST-[0-9]{{8}}\\b']
        action: requireApproval
        approval:
          {{workflow: leads, show: [$.ticket_id], bind: [$.ticket_id], duration: 5m, maxDuration: 1h, maxUses: 20}}
    responses:
      - {{name: mail, detect: [email, iban], patterns: [a], except: [b], paths: [$..text], tools: [t], action: redact}}
      - {{name: films, binary: {{types: ["video/*"], over: 1MiB}}, action: block}}
approvals:
  workflows:
    - {{name: leads, approvers: ["oidc:group:leads", "token:oncall"], required: 2, pendingFor: 10m}}
sessions: {{key: {{env: SESSION_KEY}}, lifetime: 12h}}
telemetry:
  audit:
    output: {{file: /var/log/audit.jsonl, rotate: {{size: 64MiB, keep: 8}}}}
    onFailure: allow
    payloads: redacted
    signingKey: {{file: audit.pem}}
  otlp: {{endpoint: "https://c:4317", ca: {{file: ca.pem}}, headers: {{authorization: {{env: TOKEN}}}}, sample: 0.5}}
  logLevel: warning
"""


def test_everything_that_this_version_has():
    found = good(EVERYTHING)
    assert [(problem.line, problem.path) for problem in found.warnings] == [(39, "policies[0].requests[2]")]
    assert found.configuration == model.Configuration(
        listen=model.Listen(
            mcp=model.Address(host="::1", port=0),
            admin=model.Address(host="localhost", port=9000),
            allowed_origins=("https://app.example:8443",),
            allowed_hosts=("gateway.example", "10.0.0.1:15001"),
        ),
        identity=model.Identity(
            agents=(
                model.ApiKeyAgents(keys=(model.ApiKey(name="ci-bot", sha256=DIGEST),)),
                model.NoneAgents(),
            )
        ),
        servers=(
            model.Server(
                name="zendesk",
                path="/zendesk-mcp",
                endpoints=("https://z-0.svc:8443/mcp", "https://z-1.svc:8443/mcp"),
                tls=model.ServerTls(ca=model.Secret(file="pki/ca.pem"), server_name="zendesk.example"),
                health=model.Health(interval=20.0, timeout=0.5, unhealthy_after=5),
                timeouts=model.Timeouts(
                    connect=1.0, request=120.0, idle=3600.0, stream=14400.0, tools=(("report_*", 300.0),)
                ),
                retries=model.Retries(attempts=3, tools=("get_*",), backoff=0.05, budget=0.5),
                outliers=model.Outliers(failures=3, eject_for=60.0, max_ejected=1.0),
                rate_limit=(
                    model.RateLimit(requests=100, per=60.0, by=("agent", "tool"), burst=20, tools=("get_*",)),
                    model.RateLimit(requests=5, per=1.0),
                ),
                limits=model.Limits(request_bytes=65536, response_bytes=1024**3, in_flight=7),
                require_auth=False,
                translate=True,
                transport="sse",
                compat=model.Compat(sse=True),
                pin_tools=model.PinTools(tools=(("get_ticket", DIGEST),), file="pins.json"),
            ),
            model.Server(name="other", path="/other", endpoints=("http://127.0.0.1:9/",)),
        ),
        policies=(
            model.Policy(
                name="base",
                servers=("zendesk", "o*"),
                agents=("key:*", "anonymous"),
                requests=(
                    model.RequestRule(name="tools", tools=("get_*",), action=model.Action.ALLOW),
                    model.RequestRule(
                        name="rest",
                        prompts=("p",),
                        resources=("t://*/x",),
                        methods=("logging/setLevel",),
                        action=model.Action.DENY,
                        message="no",
                    ),
                    model.RequestRule(
                        name="gated",
                        tools=("merge",),
                        action=model.Action.REQUIRE_APPROVAL,
                        when=(
                            model.Condition(path="$.ticket_id", op=model.Operator.MATCHES, value="[0-9]{1,12}"),
                            model.Condition(path="$['a.b'][*]", op=model.Operator.IN, value=(1, "1", True, None)),
                        ),
                        detect=("email",),
                        patterns=(r"\bCUST-[0-9]{8}\b",),
                        approval=model.Approval(
                            workflow="leads",
                            show=("$.ticket_id",),
                            bind=("$.ticket_id",),
                            duration=300.0,
                            max_duration=3600.0,
                            max_uses=20,
                        ),
                    ),
                ),
                responses=(
                    model.ResponseRule(
                        name="mail",
                        detect=("email", "iban"),
                        patterns=("a",),
                        except_=("b",),
                        paths=("$..text",),
                        tools=("t",),
                        action=model.ResponseAction.REDACT,
                    ),
                    model.ResponseRule(
                        name="films",
                        binary=model.Binary(types=("video/*",), over=1024 * 1024),
                        action=model.ResponseAction.BLOCK,
                    ),
                ),
            ),
        ),
        approvals=model.Approvals(
            workflows=(
                model.Workflow(
                    name="leads", approvers=("oidc:group:leads", "token:oncall"), required=2, pending_for=600.0
                ),
            )
        ),
        sessions=model.Sessions(key=model.Secret(env="SESSION_KEY"), lifetime=43200.0),
        telemetry=model.Telemetry(
            audit=model.Audit(
                file="/var/log/audit.jsonl",
                rotate=model.Rotation(size=64 * 1024 * 1024, keep=8),
                on_failure="allow",
                payloads="redacted",
                signing_key=model.Secret(file="audit.pem"),
            ),
            otlp=model.Otlp(
                endpoint="https://c:4317",
                ca=model.Secret(file="ca.pem"),
                headers=(("authorization", model.Secret(env="TOKEN")),),
                sample=0.5,
            ),
            log_level="warning",
        ),
    )


def test_the_values_have_the_types_that_the_model_says():
    made = good(EVERYTHING).configuration
    assert msgspec.convert(msgspec.to_builtins(made), model.Configuration) == made


def condition(text):
    made = good(f"policies: [{{name: p, servers: [s], requests: [{{name: r, action: deny, when: [{text}]}}]}}]")
    return made.configuration.policies[0].requests[0].when[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("op: eq, value: 1", 1),
        ("op: eq, value: '1'", "1"),
        ("op: ne, value: null", None),
        ('op: eq, value: ""', ""),
        ("op: in, value: a", ("a",)),
        ("op: notIn, value: [1, 1.5, x]", (1, 1.5, "x")),
        ("op: lt, value: 5", 5),
        ("op: gte, value: -0.5", -0.5),
        ("op: matches, value: 'a|b'", "a|b"),
        ("op: glob, value: 'a*'", "a*"),
        ("op: cidr, value: 10.0.0.0/8", ("10.0.0.0/8",)),
        ("op: cidr, value: [192.0.2.7, '2001:db8::/32']", ("192.0.2.7/32", "2001:db8::/32")),
        ("op: lengthAtMost, value: 0", 0),
        ("op: exists", None),
        ("op: absent", None),
    ],
)
def test_conditions(text, value):
    found = condition(f"{{path: $.a, {text}}}")
    assert (found.value, type(found.value)) == (value, type(value))


def test_agents_by_their_parts():
    selector = "{trustDomain: acme.example, namespace: 'ai-*', serviceAccount: bot, claims: {team: '*', org: a}}"
    made = good(f"policies: [{{name: p, servers: [s], agents: [{selector}]}}]").configuration
    assert made.policies[0].agents == (
        model.AgentSelector(
            trust_domain="acme.example",
            namespace="ai-*",
            service_account="bot",
            claims=(("team", "*"), ("org", "a")),
        ),
    )


def test_the_default_of_a_grant_is_no_longer_than_its_maximum():
    approval = "approval: {workflow: w, maxDuration: 10m}"
    made = good(
        "approvals: {workflows: [{name: w, approvers: ['token:a']}]}\npolicies: [{name: p, servers: [s], "
        f"requests: [{{name: r, action: requireApproval, {approval}}}]}}]"
    ).configuration
    assert made.policies[0].requests[0].approval == model.Approval(workflow="w", duration=600.0, max_duration=600.0)


@pytest.mark.parametrize(("text", "pins"), [("true", model.PinTools()), ("false", None), ("{}", model.PinTools())])
def test_pinned_tools(text, pins):
    assert good(server(f"pinTools: {text}")).configuration.servers[0].pin_tools == pins


def test_a_shadow_policy():
    made = good("policies: [{name: p, servers: [s], mode: shadow, requests: [], responses: []}]").configuration
    assert made.policies == (model.Policy(name="p", servers=("s",), mode="shadow"),)


def test_the_least_configuration():
    assert good("").configuration == model.Configuration()


def test_two_listeners_on_any_free_port():
    made = good("listen: {mcp: 127.0.0.1:0, admin: 127.0.0.1:0}").configuration
    assert made.listen.mcp == made.listen.admin == model.Address(host="127.0.0.1", port=0)


def test_relative_files_start_from_the_folder_of_the_file():
    found = outcome({"etc/gateway.yaml": HEAD + "sessions: {key: {file: ../keys/session.key}}"}, "etc/gateway.yaml")
    assert isinstance(found, Loaded)
    assert found.configuration.sessions.key == model.Secret(file="keys/session.key")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("FALSE", False)],
)
def test_booleans(text, value):
    assert good(server(f"requireAuth: {text}")).configuration.servers[0].require_auth is value


@pytest.mark.parametrize(
    "text", ["no", "on", "2024-01-01", "12:30:45", "1_000", "0x10", "010", ".inf", "=", "y", "'1'", '"null"']
)
def test_what_only_looks_like_something_to_other_yaml_readers_is_text(text):
    found = good(f"policies: [{{name: p, servers: [s], requests: [{{name: r, action: deny, tools: [{text}]}}]}}]")
    assert found.configuration.policies[0].requests[0].tools == (text.strip("'\""),)


@pytest.mark.parametrize("digest", ["1" * 64, "1" * 20 + "e" + "2" * 43, '"' + "0" * 64 + '"'])
def test_a_digest_that_looks_like_a_number(digest):
    made = good(f"identity: {{agents: [{{type: apiKey, keys: [{{name: a, sha256: {digest}}}]}}]}}").configuration
    assert made.identity.agents == (model.ApiKeyAgents(keys=(model.ApiKey(name="a", sha256=digest.strip('"')),)),)


def test_a_block_of_text_is_one_line():
    made = good(
        """
        policies:
          - name: p
            servers: [s]
            requests:
              - name: r
                action: deny
                message: >
                  ask your lead,
                  she decides
        """
    ).configuration
    assert made.policies[0].requests[0].message == "ask your lead, she decides"


def test_a_byte_order_mark_and_windows_line_ends_are_read_over():
    found = outcome(
        {"gateway.yaml": b"\xef\xbb\xbf" + (HEAD + "listen: {}\n").replace("\n", "\r\n").encode()}, "gateway.yaml"
    )
    assert isinstance(found, Loaded)


SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
COUNTS = st.integers(1, 999_999_999)


@given(count=COUNTS, unit=st.sampled_from(sorted(SECONDS)))
def test_durations(count, unit):
    if count * SECONDS[unit] > 876_000 * 3600:  # a hundred years
        said = f"2: servers[0].timeouts.idle: must be at most 876000h, found {count}{unit}"
        assert [message.partition(": ")[2] for message in errors(server(f"timeouts: {{idle: {count}{unit}}}"))] == [
            said[3:]
        ]
        return
    made = good(server(f"timeouts: {{idle: {count}{unit}}}")).configuration
    assert made.servers[0].timeouts.idle == pytest.approx(count * SECONDS[unit], rel=1e-12)


@given(count=COUNTS, unit=st.sampled_from(sorted(BYTES)))
def test_sizes(count, unit):
    made = good(server(f"limits: {{requestBytes: {count}{unit}}}")).configuration
    assert made.servers[0].limits.request_bytes == count * BYTES[unit]


@given(text=st.from_regex(r"[0-9]{0,12}[A-Za-z. ]{0,4}", fullmatch=True))
def test_other_amounts_are_refused(text):
    number, unit = text.rstrip("msh"), text[len(text.rstrip("msh")) :]
    if number.isdigit() and len(number) < 10 and int(number) and unit in SECONDS:
        return
    assert len(errors(server(f'timeouts: {{idle: "{text}"}}'))) == 1


YAML_PIECES = st.sampled_from(
    [
        *(HEAD, "---\n", "\n", " ", "  ", "\t", ": ", "- ", "[", "]", "{", "}", ",", "#", "&a ", "*a", "!!str ", "? "),
        *(
            "<<: *a",
            '"',
            "'",
            "|\n",
            ">-\n",
            "%YAML 1.1\n",
            "~",
            "1",
            "1e5",
            "9" * 5000,
            "true",
            "\\x00",
            "\x00",
            "\x85",
        ),
        *("servers", "policies", "name", "listen", "mcp", "identity", "agents", "type", "apiKey", "none", "kind"),
        *("MCPServer", "metadata", "spec", "endpoints", "http://h:1/mcp", "http://[", "state", "sha256", "tls", "ca"),
        *("requests", "action", "allow", "tools", "timeouts", "idle", "5s", "auth", "telemetry", "audit", "output"),
        *("when", "path", "op", "value", "$.a", "matches", "cidr", "approval", "responses", "binary", "claims"),
    ]
)


def answers(data: bytes) -> None:
    assert isinstance(outcome({"gateway.yaml": data}, "gateway.yaml"), Loaded | ConfigurationError)


@given(pieces=st.lists(YAML_PIECES, max_size=30))
@example(pieces=["["] * 3000)
@example(pieces=["- "] * 3000)
@example(pieces=["{a: "] * 3000)
def test_any_text_parses_or_is_refused_with_reasons(pieces):
    answers("".join(pieces).encode())


@given(data=st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused_with_reasons(data):
    answers(data)


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["5s", "http://h/", "/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(YAML_PIECES.filter(str.isalnum), inner, max_size=4),
    max_leaves=12,
)
SECTIONS = [
    "listen",
    "identity",
    "servers",
    "policies",
    "approvals",
    "sessions",
    "telemetry",
    "state",
    "source",
    "kind",
    "metadata",
    "spec",
]


@given(sections=st.dictionaries(st.sampled_from(SECTIONS), TREES))
def test_any_tree_parses_or_is_refused_with_reasons(sections):
    tree = {"apiVersion": "openmcp.dev/v1alpha1", **sections}
    answers(msgspec.json.encode(tree))  # JSON is YAML


@given(line=st.integers(0, 40), change=st.sampled_from(["delete", "double", "dedent", "empty", "list", "number"]))
def test_one_changed_line_parses_or_is_refused_with_reasons(line, change):
    lines = EVERYTHING.splitlines()
    at = line % len(lines)
    key = lines[at].partition(":")[0]
    changed = {
        "delete": [],
        "double": [lines[at], lines[at]],
        "dedent": [lines[at].strip()],
        "empty": [f"{key}:"],
        "list": [f"{key}: [a, 1]"],
        "number": [f"{key}: 5"],
    }
    assert isinstance(single("\n".join([*lines[:at], *changed[change], *lines[at + 1 :]])), Loaded | ConfigurationError)


def test_a_special_file_that_cannot_be_read(tmp_path):
    (tmp_path / "gateway.yaml").symlink_to(tmp_path / "gateway.yaml")
    found = outcome({}, str(tmp_path / "gateway.yaml"))
    assert "cannot be read: Too many levels of symbolic links" in str(found)
