"""The approver's side: who logs in how, channels, limits, and whether somebody can decide on what rules gate."""

import pytest

from openmcp.config import model
from tests.config.sources import check, errors, good, warnings

D1, D2 = "1" * 64, "2" * 64
SECRET = model.Secret(env="S")
SLACK = "type: slack, channel: C012, token: {env: S}, signingSecret: {env: S}"
MAIL = "type: email, to: [a@b.example], from: c@d.example"


def test_everything_is_read():
    made = good(
        f"""
        approvals:
          console: {{listen: "[::]:8443", url: "https://Approvals.example"}}
          oidc:
            issuer: "https://idp.example/realm"
            clientId: openmcp
            clientSecret: {{env: S}}
            groupsClaim: roles
            userClaim: oid
            scopes: [openid, groups]
            ca: {{env: S}}
          tokens: [{{name: oncall, sha256: {D1}}}]
          channels:
            - {{name: chat, {SLACK}}}
            - {{name: quiet, type: slack, mode: socket, channel: G012, token: {{env: S}}, appToken: {{env: S}}, apiUrl: "http://[::1]:9/api/"}}
            - name: mail
              type: email
              to: [leads@acme.example, "o'neil+x@acme.example"]
              from: openmcp@acme.example
              smtp: {{host: "::1", port: 465, startTls: false, user: u, password: {{env: S}}, ca: {{env: S}}}}
          workflows:
            - {{name: w, approvers: ["token:oncall"], channels: [chat, quiet, mail], requireReason: true,
               pendingFor: 1h}}
          hold: 1s
          holdWithProgress: 20s
          maxOpen: 7
          notificationsPerHour: 8
          cooldown: 9m
        """
    ).configuration.approvals
    assert made == model.Approvals(
        console=model.Console(listen=model.Address(host="::", port=8443), url="https://approvals.example"),
        oidc=model.Oidc(
            issuer="https://idp.example/realm",
            client_id="openmcp",
            client_secret=SECRET,
            groups_claim="roles",
            user_claim="oid",
            scopes=("openid", "groups"),
            ca=SECRET,
        ),
        tokens=(model.ApproverToken(name="oncall", sha256=D1),),
        channels=(
            model.SlackChannel(name="chat", channel="C012", token=SECRET, signing_secret=SECRET),
            model.SlackChannel(
                name="quiet",
                channel="G012",
                token=SECRET,
                mode="socket",
                app_token=SECRET,
                api_url="http://[::1]:9/api",
            ),
            model.EmailChannel(
                name="mail",
                to=("leads@acme.example", "o'neil+x@acme.example"),
                sender="openmcp@acme.example",
                smtp=model.Smtp(host="::1", port=465, start_tls=False, user="u", password=SECRET, ca=SECRET),
            ),
        ),
        workflows=(
            model.Workflow(
                name="w",
                approvers=("token:oncall",),
                channels=("chat", "quiet", "mail"),
                require_reason=True,
                pending_for=3600.0,
            ),
        ),
        hold=1.0,
        hold_with_progress=20.0,
        max_open=7,
        notifications_per_hour=8,
        cooldown=540.0,
    )


def test_what_is_left_out_is_safe():
    made = good(f"approvals: {{console: {{}}, tokens: [{{name: a, sha256: {D1}}}]}}").configuration.approvals
    assert made.console == model.Console(listen=model.Address(host="127.0.0.1", port=15021), url=None)
    assert (made.workflows, made.channels, made.oidc) == ((), (), None)
    assert (made.hold, made.hold_with_progress) == (3.0, 45.0)
    assert (made.max_open, made.notifications_per_hour, made.cooldown) == (20, 60, 300.0)
    assert model.Smtp(host="h").encrypted
    assert not model.Smtp(host="h", start_tls=False).encrypted


def test_an_object_of_its_own_joins_the_workflows_and_the_rest_is_kept():
    made = good(
        f"""
        approvals:
          console: {{}}
          tokens: [{{name: a, sha256: {D1}}}]
          workflows: [{{name: v, approvers: ["token:a"]}}]
        ---
        apiVersion: openmcp.dev/v1alpha1
        kind: ApprovalWorkflow
        metadata: {{name: w}}
        spec: {{approvers: ["token:a"]}}
        """
    ).configuration.approvals
    assert [workflow.name for workflow in made.workflows] == ["v", "w"]
    assert made.console is not None


@check(
    {
        "elsewhere without url": (
            "approvals: {console: {listen: 0.0.0.0:15021}}",
            "2: approvals.console: `url` is required: 0.0.0.0:15021 is reached from elsewhere (write how "
            "browsers reach it: url: https://approvals.example)",
        ),
        "url in the clear": (
            "approvals: {console: {url: 'http://approvals.example'}}",
            "2: approvals.console.url: http to another machine: whoever is on the way could approve (write https://)",
        ),
        "url with a path": (
            "approvals: {console: {url: 'https://a.example/b'}}",
            '2: approvals.console.url: not an origin: "https://a.example/b" (scheme, host and port alone, such as '
            "https://app.example; each one by name)",
        ),
        "oidc": (
            "approvals: {console: {}, oidc: {groupClaim: x}}",
            "2: approvals.oidc: `issuer` is required",
            "2: approvals.oidc: `clientId` is required",
            '2: approvals.oidc: unknown key "groupClaim" (did you mean "groupsClaim"?)',
        ),
        "issuer in the clear": (
            "approvals: {console: {}, oidc: {issuer: 'http://idp.example', clientId: a}}",
            "2: approvals.oidc.issuer: http to another machine: whoever is on the way could approve (write https://)",
        ),
        "ca for http": (
            "approvals: {console: {}, oidc: {issuer: 'http://localhost:9', clientId: a, ca: {file: x}}}",
            "2: approvals.oidc.ca: `ca` has no meaning with an http issuer (remove it)",
        ),
        "secret inline": (
            "approvals: {console: {}, oidc: {issuer: 'https://i', clientId: a, clientSecret: hunter2}}",
            "2: approvals.oidc.clientSecret: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "no openid": (
            "approvals: {console: {}, oidc: {issuer: 'https://i', clientId: a, scopes: [groups]}}",
            "2: approvals.oidc.scopes: the scope `openid` is missing (write [openid, ...])",
        ),
        "tokens alike": (
            f"approvals: {{console: {{}}, tokens: [{{name: a, sha256: {D1}}}, {{name: a, sha256: {D2}}}, "
            f"{{name: b, sha256: {D2}}}]}}",
            '2: approvals.tokens[1].name: duplicate token name "a" (first at line 2)',
            f'2: approvals.tokens[2].sha256: duplicate token sha256 "{D2[:57]}..." (first at line 2)',
        ),
        "token inline": (
            "approvals: {console: {}, tokens: [{name: a, sha256: letmein}]}",
            "2: approvals.tokens[0].sha256: not a SHA-256 digest: 64 hexadecimal digits expected, found 7 characters "
            '(make one with: printf %s "$KEY" | sha256sum)',
        ),
        "held too long": (
            "approvals: {hold: 10m, maxOpen: 0, cooldown: 0s}",
            "2: approvals.hold: must be at most 5m, found 10m (the agent repeats its call and finds the grant)",
            "2: approvals.maxOpen: must be between 1 and 500, found 0",
            "2: approvals.cooldown: must be more than 0",
        ),
    }
)
def test_console_logins_and_limits(text, expected):
    assert errors(text) == expected


def channel(text: str) -> str:
    """A configuration whose only channel is on line 4."""
    return f"approvals:\n  channels:\n    - {{name: c, {text}}}\n"


@check(
    {
        "unknown type": (
            channel("type: slak"),
            '4: approvals.channels[0].type: unknown type "slak" (did you mean "slack"?)',
        ),
        "a name, no id": (
            channel("type: slack, channel: '#leads', token: {env: S}, signingSecret: {env: S}"),
            '4: approvals.channels[0].channel: not the id of a Slack channel: "#leads" (it is in the channel\'s '
            "details, such as C0123ABC)",
        ),
        "a token inline": (
            channel("type: slack, channel: C012, token: xoxb-secret, signingSecret: {env: S}"),
            "4: approvals.channels[0].token: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "no signing secret": (
            channel("type: slack, channel: C012, token: {env: S}"),
            "4: approvals.channels[0]: `signingSecret` is required with `mode: http` "
            "(write signingSecret: {env: NAME})",
        ),
        "no app token": (
            channel("type: slack, channel: C012, token: {env: S}, mode: socket"),
            "4: approvals.channels[0]: `appToken` is required with `mode: socket` (write appToken: {env: NAME})",
        ),
        "the other mode's secret": (
            channel(f"{SLACK}, appToken: {{env: S}}"),
            "4: approvals.channels[0].appToken: `appToken` has no meaning with `mode: http` (remove it)",
        ),
        "Slack in the clear": (
            channel(f"{SLACK}, apiUrl: 'http://slack.example/api'"),
            "4: approvals.channels[0].apiUrl: http to another machine: the token would be seen on the way "
            "(write https://)",
        ),
        "nobody to mail to": (
            channel("type: email, to: [], from: a@b.example, smtp: {host: h}"),
            "4: approvals.channels[0].to: an empty list (nobody would be told: write who is)",
        ),
        "addresses": (
            channel("type: email, to: ['A <a@b.example>', 'a@b.example, c@b.example'], from: '@b', smtp: {host: h}"),
            '4: approvals.channels[0].to[0]: not an address: "A <a@b.example>" (write lead@acme.example, without '
            "a name and brackets)",
            '4: approvals.channels[0].to[1]: not an address: "a@b.example, c@b.example" (write lead@acme.example, '
            "without a name and brackets)",
            '4: approvals.channels[0].from: not an address: "@b" (write lead@acme.example, without a name and '
            "brackets)",
        ),
        "one address twice": (
            channel("type: email, to: [a@b.example, A@b.example], from: c@d.example, smtp: {host: h}"),
            '4: approvals.channels[0].to[1]: duplicate address "a@b.example" (first at line 4)',
        ),
        "a server with a port": (
            channel(f"{MAIL}, smtp: {{host: 'mail:25'}}"),
            '4: approvals.channels[0].smtp.host: not a host: "mail:25" (an IP address or a name, without scheme '
            "and port)",
        ),
        "a password without a user": (
            channel(f"{MAIL}, smtp: {{host: mail, password: {{env: S}}}}"),
            "4: approvals.channels[0].smtp.password: `user` and `password` go together (write both, or none)",
        ),
        "a password in the clear": (
            channel(f"{MAIL}, smtp: {{host: mail, startTls: false, user: u, password: {{env: S}}}}"),
            "4: approvals.channels[0].smtp.user: the password would be sent in the clear (remove startTls: false)",
        ),
        "a CA for nothing": (
            channel(f"{MAIL}, smtp: {{host: localhost, startTls: false, ca: {{env: S}}}}"),
            "4: approvals.channels[0].smtp.ca: `ca` has no meaning with `startTls: false` (remove one of them)",
        ),
        "no console to link to": (
            channel(f"{MAIL}, smtp: {{host: mail}}"),
            "4: approvals.channels[0]: a mail holds a link to the console, and there is none (write approvals.console)",
        ),
        "no console to call": (
            channel(SLACK),
            "4: approvals.channels[0]: in `mode: http` Slack calls the console, and there is none (write "
            "approvals.console, or mode: socket)",
        ),
        "two of one name": (
            f"approvals: {{console: {{}}, channels: [{{name: c, {SLACK}}}, {{name: c, {SLACK}}}]}}",
            '2: approvals.channels[1].name: duplicate channel name "c" (first at line 2)',
        ),
        "an unknown one": (
            f"approvals: {{console: {{}}, channels: [{{name: leads, {SLACK}}}], "
            "workflows: [{name: w, approvers: ['slack:U012'], channels: [lead, lead]}]}",
            '2: approvals.workflows[0].channels[1]: duplicate channel "lead" (first at line 2)',
        ),
        "a typo": (
            f"approvals: {{console: {{}}, channels: [{{name: leads, {SLACK}}}], "
            "workflows: [{name: w, approvers: ['slack:U012'], channels: [lead]}]}",
            '2: approvals.workflows[0].channels[0]: no channel is named "lead" (did you mean "leads"?)',
        ),
        "the address of another listener": (
            "approvals: {console: {listen: 127.0.0.1:15020}}",
            "2: approvals.console: the console has the same address 127.0.0.1:15020 as `listen.admin`",
        ),
    }
)
def test_channels(text, expected):
    assert errors(text) == expected


def side(*lines: str, workflow: str = "approvers: ['token:a']", state: str = "memory", mode: str = "enforce") -> str:
    """A gateway with a rule (line 6) whose calls somebody has to approve (workflow: line 8)."""
    given = "".join(f"  {line}\n" for line in lines)
    more = "" if state == "memory" else ", path: x"
    return (
        "identity: {agents: [{type: none}]}\n"
        'servers: [{name: s, endpoints: ["https://h/mcp"]}]\n'
        f"policies:\n  - {{name: p, servers: [s], mode: {mode}, requests: [\n"
        "    {name: r, tools: [a], action: requireApproval, approval: {workflow: w}}, {name: o, action: allow}]}\n"
        f"approvals:\n  workflows: [{{name: w, {workflow}}}]\n{given}"
        f"state: {{type: {state}{more}}}\n"
    )


CONSOLE = "console: {url: 'https://a.example'}"
TOKEN = f"tokens: [{{name: a, sha256: {D1}}}]"
OIDC = "oidc: {issuer: 'https://i.example', clientId: c}"
CHAT = f"channels: [{{name: c, {SLACK}}}]"
POST = f"channels: [{{name: m, {MAIL}, smtp: {{host: mail}}}}]"
LOST = '6: policies[0].requests[0]: calls under "r" are never let through: '
FEW = LOST + 'of the approvers of "w" {} can decide and {} must'
CANNOT = "8: approvals.workflows[0].approvers[{}]: {} cannot decide: {}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(side(CONSOLE, TOKEN), id="a token"),
        pytest.param(
            side(CONSOLE, OIDC, workflow="approvers: ['oidc:group:g'], required: 3"), id="a group of any size"
        ),
        pytest.param(side(CONSOLE, CHAT, workflow="approvers: ['slack:U012'], channels: [c]"), id="Slack"),
        pytest.param(side(CONSOLE, POST, workflow="approvers: ['email:a@b.example'], channels: [m]"), id="a mail"),
        pytest.param(
            side(CONSOLE, OIDC, workflow="approvers: ['email:a@b.example']"), id="an address that is verified"
        ),
    ],
)
def test_who_can_decide(text):
    assert warnings(text) == []


@check(
    {
        "nothing of the approver's side": (
            side(),
            LOST + "nobody can decide (write approvals.console: {} and approvals.tokens)",
        ),
        "a claim that users choose": (
            side(CONSOLE, TOKEN, OIDC.replace("}", ", userClaim: email}")),
            "11: approvals.oidc.userClaim: at many identity providers users choose their `email` themselves: one could "
            "take an approver's (sub is given once and never changes)",
        ),
        "some who cannot": (
            side(
                CONSOLE,
                TOKEN,
                workflow="approvers: ['token:a', 'oidc:user:u', 'slack:U012', 'email:l@a.example', 'token:b']",
            ),
            CANNOT.format(1, "oidc:user:u", "`approvals.oidc` is missing"),
            CANNOT.format(2, "slack:U012", "no channel of type slack asks them"),
            CANNOT.format(3, "email:l@a.example", "no channel of type email asks them"),
            CANNOT.format(4, "token:b", 'no entry of approvals.tokens is named "b"'),
        ),
        "a channel that nobody uses, on this machine": (
            side("console: {}", TOKEN, CHAT),
            '11: approvals.channels[0]: nobody is told by "c" (write channels: [c] in a workflow)',
            "11: approvals.channels[0]: in `mode: http` Slack calls the console, which is on this machine alone "
            "(write mode: socket)",
        ),
        "mails in the clear": (
            side(
                CONSOLE,
                TOKEN,
                f"channels: [{{name: m, {MAIL}, smtp: {{host: mail, startTls: false}}}}]",
                workflow="approvers: ['token:a'], channels: [m]",
            ),
            "11: approvals.channels[0].smtp.startTls: what agents ask goes to mail in the clear (remove startTls: "
            "false, where the mail server can do it)",
        ),
    }
)
def test_warnings(text, expected):
    assert warnings(text) == expected


@check(
    {
        "too few": (
            side(CONSOLE, TOKEN, workflow="approvers: ['token:a', 'oidc:user:u'], required: 2"),
            FEW.format(1, 2),
        ),
        "no page": (side(TOKEN), FEW.format(0, 1)),
    }
)
def test_a_rule_that_nobody_can_decide_on_is_refused(text, expected):
    assert errors(text) == expected


def test_a_policy_in_shadow_asks_nobody():
    found = warnings(side(CONSOLE, workflow="approvers: ['token:b']", mode="shadow"))
    assert found[-1] == CANNOT.format(0, "token:b", 'no entry of approvals.tokens is named "b"')
    assert not any("never let through" in text for text in found)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(side(state="sqlite"), id="decided elsewhere"),
        pytest.param(side(CONSOLE, state="sqlite"), id="a token by openmcp approvals --as"),
    ],
)
def test_a_state_that_others_see_may_be_decided_on_elsewhere(text):
    assert warnings(text) == []


def test_a_token_that_is_missing_among_others_is_a_mistake_wherever_it_is_used():
    assert warnings(side(CONSOLE, TOKEN, workflow="approvers: ['token:a', 'token:b']", state="sqlite")) == [
        CANNOT.format(1, "token:b", 'no entry of approvals.tokens is named "b"')
    ]
