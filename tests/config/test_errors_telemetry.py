"""Each mistake has a message of its own: workflows, the record, the export, pinned tools."""

from tests.config.sources import check, errors, server


@check(
    {
        "no mapping": ("approvals: {workflows: [[]]}", "2: approvals.workflows[0]: expected a mapping, found a list"),
        "required keys": (
            "approvals: {workflows: [{}]}",
            "2: approvals.workflows[0]: `name` is required",
            "2: approvals.workflows[0]: `approvers` is required",
        ),
        "nobody": (
            "approvals: {workflows: [{name: w, approvers: []}]}",
            "2: approvals.workflows[0].approvers: an empty list (nobody could approve: write who may, such "
            "as oidc:group:NAME)",
        ),
        "no kind": (
            "approvals: {workflows: [{name: w, approvers: ['a']}]}",
            '2: approvals.workflows[0].approvers[0]: not an approver: "a" (begin with one of oidc:group:, '
            "oidc:user:, slack:, email:, token:)",
        ),
        "kinds misspelt": (
            "approvals: {workflows: [{name: w, approvers: ['oidc:groups:x', 'slak:U1']}]}",
            '2: approvals.workflows[0].approvers[0]: not an approver: "oidc:groups:x" (did you mean "oidc:group:"?)',
            '2: approvals.workflows[0].approvers[1]: not an approver: "slak:U1" (did you mean "slack:"?)',
        ),
        "not of their kind": (
            "approvals: {workflows: [{name: w, approvers: ['slack:bob','email:x','token: a','oidc:group:']}]}",
            '2: approvals.workflows[0].approvers[0]: not an approver: "slack:bob" (slack: is followed by a '
            "member's id, such as slack:U0123ABC)",
            '2: approvals.workflows[0].approvers[1]: not an approver: "email:x" (email: is followed by an '
            "address, such as email:lead@acme.example)",
            '2: approvals.workflows[0].approvers[2]: not an approver: "token: a" (token: is followed by the '
            "name of a token, such as token:oncall)",
            '2: approvals.workflows[0].approvers[3]: not an approver: "oidc:group:" (oidc:group: is followed '
            "by the name of a group in the claim of the identity provider)",
        ),
        "approver twice": (
            "approvals: {workflows: [{name: w, approvers: ['token:a','token:a']}]}",
            '2: approvals.workflows[0].approvers[1]: duplicate approver "token:a" (first at line 2)',
        ),
        "none required": (
            "approvals: {workflows: [{name: w, approvers: ['token:a'], required: 0}]}",
            "2: approvals.workflows[0].required: must be between 1 and 100, found 0",
        ),
        "more than there are": (
            "approvals: {workflows: [{name: w, approvers: ['token:a'], required: 2}]}",
            "2: approvals.workflows[0].required: 2 approvals are required and 1 can be given (name more)",
        ),
        "pending": (
            "approvals: {workflows: [{name: w, approvers: ['token:a'], pendingFor: 1}]}",
            "2: approvals.workflows[0].pendingFor: a duration needs a unit, found 1 (one of ms, s, m, h: 30s)",
        ),
        "names": (
            "approvals: {workflows: [{name: w, approvers: ['token:a']}, {name: w, approvers: ['token:a']}]}",
            '2: approvals.workflows[1].name: duplicate workflow name "w" (first at line 2)',
        ),
    }
)
def test_workflows(text, expected):
    assert errors(text) == expected


@check(
    {
        "payloads": (
            "telemetry: {audit: {payloads: full}}",
            '2: telemetry.audit.payloads: unknown payloads "full" (one of: none, redacted)',
        ),
        "key in the clear": (
            "telemetry: {audit: {signingKey: abc}}",
            "2: telemetry.audit.signingKey: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "rotation without size": (
            "telemetry: {audit: {output: {file: a, rotate: {}}}}",
            "2: telemetry.audit.output.rotate: `size` is required",
        ),
        "rotation": (
            "telemetry: {audit: {output: {file: a, rotate: {size: 1MiB, keep: -1}}}}",
            "2: telemetry.audit.output.rotate.keep: must be between 0 and 1000000, found -1",
        ),
        "rotation without file": (
            "telemetry: {audit: {output: {rotate: {size: 1MiB}}}}",
            "2: telemetry.audit.output: `file` is required",
        ),
        "no endpoint": ("telemetry: {otlp: {}}", "2: telemetry.otlp: `endpoint` is required"),
        "scheme": (
            "telemetry: {otlp: {endpoint: 'grpc://x'}}",
            '2: telemetry.otlp.endpoint: not the URL of a collector: "grpc://x" (begin with http:// or https://)',
        ),
        "path": (
            "telemetry: {otlp: {endpoint: 'http://x:1/v1/traces'}}",
            '2: telemetry.otlp.endpoint: not an endpoint of OTLP over gRPC: it has the path "/v1/traces" '
            "(host and port alone)",
        ),
        "no port": (
            "telemetry: {otlp: {endpoint: 'http://x'}}",
            "2: telemetry.otlp.endpoint: the endpoint names no port (write http://x:4317, the port of OTLP over gRPC)",
        ),
        "ca": (
            "telemetry: {otlp: {endpoint: 'http://x:1', ca: {file: a}}}",
            "2: telemetry.otlp.ca: `ca` has no meaning for an http endpoint (write https:// in the endpoint "
            "or remove `ca`)",
        ),
        "headers": (
            "telemetry: {otlp: {endpoint: 'http://x:1', headers: {Authorization: {env: A}, x-bin: {env: B}, a: b}}}",
            '2: telemetry.otlp.headers: not a key that can stand here: "Authorization" (gRPC metadata: '
            "lower-case letters, digits and . _ -)",
            '2: telemetry.otlp.headers: not a key that can stand here: "x-bin" (names that begin with grpc- '
            "or end with -bin are gRPC's own)",
            "2: telemetry.otlp.headers.a: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "share": (
            "telemetry: {otlp: {endpoint: 'http://x:1', sample: 2}}",
            "2: telemetry.otlp.sample: must be between 0 and 1, found 2 (0.25 is a quarter)",
        ),
        "share as text": (
            "telemetry: {otlp: {endpoint: 'http://x:1', sample: all}}",
            '2: telemetry.otlp.sample: expected a number, found the text "all"',
        ),
    }
)
def test_telemetry(text, expected):
    assert errors(text) == expected


@check(
    {
        "number": (
            server("pinTools: 0"),
            "4: servers[0].pinTools: expected true, false or a mapping, found the number 0 (write {tools: "
            "{NAME: DIGEST}, file: PATH})",
        ),
        "yes": (
            server("pinTools: yes"),
            '4: servers[0].pinTools: expected true, false or a mapping, found the text "yes" (write {tools: '
            "{NAME: DIGEST}, file: PATH})",
        ),
        "no tools": (
            server("pinTools: {tools: {}}"),
            "4: servers[0].pinTools.tools: an empty mapping (remove the key or fill it)",
        ),
        "digest": (
            server("pinTools: {tools: {a: b}}"),
            '4: servers[0].pinTools.tools.a: expected the digest of a tool\'s definition, found the text "b" '
            "(64 hexadecimal digits in lower case)",
        ),
        "file": (server("pinTools: {file: ''}"), "4: servers[0].pinTools.file: must not be empty"),
        "key misspelt": (
            server("pinTools: {tool: {}}"),
            '4: servers[0].pinTools: unknown key "tool" (did you mean "tools"?)',
        ),
    }
)
def test_pinned_tools(text, expected):
    assert errors(text) == expected
