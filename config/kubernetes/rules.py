"""What the API server checks of values and across keys, in CEL and in our words, by the reading that checks the same.

CEL has RE2 for `matches`, as we do. What costs too much where it would stand (lists in lists) is left to `pattern`.
"""

import re
from typing import Any

from openmcp.config import cursor, parse, policies, serverauth, spiffevalues, stdio, values, workflows
from openmcp.config.cursor import MAX_TEXT, Reading
from openmcp.config.detectors import DETECTORS
from openmcp.config.model import Action, ResponseAction

Rule = dict[str, Any]


def rule(expression: str, message: str) -> Rule:
    """One entry of `x-kubernetes-validations`."""
    return {"rule": expression, "message": message}


def _like(expression: str, subject: str = "self") -> str:
    """Whether all of a text is as the regular expression says, but for the line end of a YAML block."""
    quote = '"' if "'" in expression else "'"
    return rf"{subject}.matches(r{quote}^(?:{expression})\n*${quote})"


def _text(*rules: Rule, most: int = MAX_TEXT, pattern: str | None = None) -> dict[str, Any]:
    """A text of one line, not empty, as `cursor.string` reads it."""
    made: dict[str, Any] = {"minLength": 1, "maxLength": most}
    if pattern is not None:
        made["pattern"] = pattern
    if rules:
        made["x-kubernetes-validations"] = list(rules)
    return made


_ONE_LINE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\n*$"
"""What `str.isprintable` takes, with something to be seen in it; without what only some regular expressions know."""

_PORT = r"0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]"
_ORIGIN = rf"(?i:https?)://(?:{_HOST})(?::(?:{_PORT})?)?"
_LOOPBACK = r"(?i:http)://(?:(?i:localhost)|127(?:\.[0-9]{1,3}){3}|\[(?:0*:)+0*1\])(?:[:/?].*)?"
_DOMAIN = "[a-z0-9._-]{1,255}"


def _url(of: str, rest: str, fault: str) -> dict[str, Any]:
    said = f"not the URL of {of}: http:// or https://, a host, no user or password, {fault}"
    return _text(rule(_like(_ORIGIN + rest), said), most=values.MAX_URL)


_NAME = rule(
    _like("[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"),
    "not a name: letters, digits, . _ and -, beginning and ending with a letter or digit",
)


def _amount(what: str, units: str, example: str, *more: Rule) -> dict[str, Any]:
    alternatives = units.replace(", ", "|")
    return _text(
        rule(
            _like(f"[0-9]{{1,9}}(?:{alternatives})"),
            f"not a {what}: a whole number and one of {units}, such as {example}",
        ),
        rule(f"!{_like(f'0+(?:{alternatives})')}", "must be more than 0"),
        *more,
        most=12,
    )


_OVERFLOWING = "0*[1-9](?:[0-9]{8}m|[0-9]{6,8}h)"
_LONGEST = rule(
    f"!{_like('[0-9]{1,9}(?:ms|s|m|h)')} || (!{_like(_OVERFLOWING)} && duration(self) <= duration('{values.LONGEST}'))",
    f"must be at most {values.LONGEST}",
)


def _path() -> dict[str, Any]:
    return _text(
        rule("self.startsWith('/')", "not a path: a path begins with /"),
        rule(r"!self.matches(r'^/\.well-known(?:/|$)')", "what lies under /.well-known is not for servers (RFC 8615)"),
        rule(
            f"!self.startsWith('/') || ({_like('/|(?:/[A-Za-z0-9._~-]+)+')} && !self.matches(r'/[.]{{1,2}}(?:/|$)'))",
            "not a path: segments of letters, digits and . _ ~ -, one / between them and none at the end, "
            "neither . nor .. alone, no query and no fragment",
        ),
    )


def _server_id() -> dict[str, Any]:
    path = "(?:/[A-Za-z0-9._*?-]+)+"
    return _text(
        rule(
            f"{_like(f'spiffe://{_DOMAIN}{path}')} && !self.matches(r'/[.]{{1,2}}(?:/|$)')",
            "not a SPIFFE ID or a glob on such: spiffe://<trust domain>/<path>, the trust domain named exactly, "
            "* and ? in the path alone",
        ),
        most=2048,
    )


def _approver() -> dict[str, Any]:
    forms = {form: expression for form, (expression, _) in workflows.FORMS.items()}
    forms["email:"] = values.MAIL_ADDRESS.pattern.partition(")")[2]  # the length before it is not for RE2
    known = " || ".join(f"self.startsWith('{form}')" for form in forms)
    listed = "|".join(f"{re.escape(form)}(?:{expression})" for form, expression in forms.items())
    return _text(
        rule(known, f"not an approver: begin with one of {', '.join(forms)}"),
        rule(
            f"!({known}) || {_like(listed)}",
            "not an approver: oidc:group: and oidc:user: are followed by a name, slack: by a member's id (U0123ABC), "
            "email: by an address, token: by the name of a token",
        ),
        rule(f"!self.startsWith('email:') || size(self) <= {6 + 254}", "not an address: longer than 254 characters"),
    )


LEAVES: dict[Reading[object], dict[str, Any]] = {
    cursor.string: _text(pattern=_ONE_LINE),
    values.name: _text(_NAME, most=253),
    values.duration: _amount("duration", "ms, s, m, h", "30s", _LONGEST),
    values.size: _amount("size", "B, KiB, MiB, GiB", "64KiB"),
    values.url_path: _path(),
    values.file_name: _text(pattern=_ONE_LINE),
    values.pattern: _text(most=values.MAX_PATTERN, pattern=_ONE_LINE),
    values.json_path: _text(most=256, pattern=_ONE_LINE),
    values.tool_digest: _text(most=64, pattern="^[0-9a-f]{64}$"),
    parse.endpoint: _url("an MCP server", r"(?:/[!-\"$->@-~]*)?", "no query and no fragment"),
    serverauth.token_url: _url("a token endpoint", r"(?:[/?][!-\"$-~]*)?", "no fragment"),
    serverauth.header_name: _text(
        rule(_like(serverauth.TOKEN.pattern), "not the name of a header: letters, digits and -, such as X-API-Key"),
        rule(
            f"!{_like(f'(?i:{serverauth.OURS.pattern})')}",
            "this header is not for a secret, it belongs to the protocol: Authorization or X-API-Key is usual",
        ),
    ),
    serverauth.prefix: _text(
        rule(
            _like(serverauth.PREFIX.pattern),
            "not what can stand before a secret: printable ASCII, with a blank at the end where one is wanted",
        ),
    ),
    serverauth.resource: _text(
        rule(
            _like(r"[A-Za-z][A-Za-z0-9+.-]*:[!-\"$-~]+"),
            "not a resource: an absolute URI without a fragment, the URL of the MCP server",
        ),
    ),
    serverauth.scope: _text(
        rule(_like(serverauth.SCOPE.pattern), "not a scope: each an entry of the list, without blanks and quotes"),
    ),
    spiffevalues.workload_glob: _server_id(),
    workflows.approver: _approver(),
}
"""Texts, by reading: their bounds, and rules where bounds would say too little."""

SECRET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": {"description": "A file that the sidecar sees.", "type": "string", **_text(pattern=_ONE_LINE)},
        "env": {
            "description": "An environment variable of the sidecar.",
            "type": "string",
            **_text(
                rule(
                    _like("[A-Za-z_][A-Za-z0-9_]*"),
                    "not the name of an environment variable: letters, digits and _; the name, not the value",
                ),
            ),
        },
    },
    "x-kubernetes-validations": [
        rule(
            "has(self.file) != has(self.env)", "exactly one of `file` and `env` is wanted: {file: PATH} or {env: NAME}"
        )
    ],
}

FILE_ONLY: frozenset[Reading[object]] = frozenset((stdio.stdio,))
"""What the file alone may have (`guard`)."""

INNER: dict[Reading[object], Reading[object]] = {
    parse.server: parse.server_shape,
    parse.endpoints: parse.endpoint_list,
    serverauth.header: serverauth.header_shape,
    serverauth.client: serverauth.client_shape,
    serverauth.oauth: serverauth.oauth_shape,
    policies.approval: policies.approval_shape,
    policies.request_rule: policies.request_shape,
    policies.response_rule: policies.response_shape,
    policies.action: cursor.choice(one.value for one in Action),
    policies.response_action: cursor.choice(one.value for one in ResponseAction),
    policies.detector: cursor.choice(DETECTORS),
    workflows.workflow: workflows.workflow_shape,
}
"""Readings that check what another one has read."""

_APPROVAL = Action.REQUIRE_APPROVAL.value
_CLEAR = r"self.endpoints.exists(one, one.matches(r'^(?i:http):'))"
_AWAY = rf"self.endpoints.exists(one, one.matches(r'^(?i:http):') && !{_like(_LOOPBACK, 'one')})"
_HTTP_ALLOWED = "has(self.auth.allowHttp) && self.auth.allowHttp"
_UNSENT = "self.auth.type in ['none', 'spiffe']"

RULES: dict[Reading[object], tuple[Rule, ...]] = {
    parse.endpoints: (
        rule(
            r"self.all(one, one.matches(r'^(?i:https):')) || !self.exists(one, one.matches(r'^(?i:https):'))",
            "the endpoints of one server must all be http or all be https",
        ),
    ),
    parse.server: (
        rule(
            f"!has(self.tls) || !{_CLEAR}",
            "`tls` has no meaning for http endpoints: write https:// in the endpoints or remove `tls`",
        ),
        rule(
            f"!has(self.auth) || self.auth.type != 'spiffe' || !{_CLEAR}",
            "`type: spiffe` is mTLS, and an endpoint is http: write https:// in the endpoints",
        ),
        rule(
            "!has(self.auth) || self.auth.type != 'spiffe' || !has(self.tls)",
            "`tls` has no meaning with `auth: {type: spiffe}`: serverIds say whom we trust",
        ),
        rule(
            f"!has(self.auth) || {_UNSENT} || ({_HTTP_ALLOWED}) || !{_AWAY}",
            "the credential would go to another machine in the clear: write https:// in the endpoints, "
            "or allowHttp: true where the way is encrypted otherwise",
        ),
    ),
    serverauth.client: (
        rule("self.type != 'secret' || has(self.secret)", "`secret` is required with `type: secret`"),
        rule(
            "self.type == 'secret' || !has(self.secret)",
            "`secret` has no meaning with this type: the client is known by its SVID",
        ),
        rule(
            "self.type != 'secret' || !has(self.audience)",
            "`audience` has no meaning with `type: secret`: it is that of a JWT-SVID",
        ),
    ),
    serverauth.oauth: (
        rule(
            "!has(self.ca) || !has(self.tokenUrl) || self.tokenUrl.startsWith('https:')",
            "`ca` has no meaning with an http URL: write https:// in tokenUrl or remove `ca`",
        ),
        rule(
            r"!has(self.tokenUrl) || !self.tokenUrl.matches(r'^(?i:http):') || (has(self.allowHttp) && self.allowHttp)"
            f" || {_like(_LOOPBACK, 'self.tokenUrl')}",
            "tokenUrl is http to another machine: a token would be seen on the way",
        ),
    ),
    policies.approval: (
        rule(
            "!has(self.maxDuration) || !has(self.duration) || duration(self.duration) <= duration(self.maxDuration)",
            "`duration` is longer than `maxDuration`: the approver may choose up to maxDuration",
        ),
    ),
    policies.request_rule: (
        rule(
            f"self.action != '{_APPROVAL}' || has(self.approval)",
            f"`approval` is required with `action: {_APPROVAL}`: write approval: {{workflow: NAME}}",
        ),
        rule(
            f"self.action == '{_APPROVAL}' || !has(self.approval)",
            f"`approval` has no meaning with this action: write action: {_APPROVAL}",
        ),
    ),
    policies.response_rule: (
        rule(
            "has(self.detect) || has(self.patterns) || has(self.binary)",
            "the rule looks for nothing: write `detect`, `patterns` or `binary`",
        ),
        rule(
            "!has(self.except) || has(self.detect) || has(self.patterns)",
            "`except` has no meaning without `detect` or `patterns`",
        ),
    ),
    workflows.workflow: (
        rule(
            "!has(self.required) || self.required <= size(self.approvers) "
            "|| self.approvers.exists(one, one.startsWith('oidc:group:'))",
            "more approvals are required than can be given: name more approvers",
        ),
    ),
}
"""What holds across keys, by the reading that checks it."""
