"""Each mistake has a message of its own: how we prove to MCP servers who we are."""

import pytest

from tests.config.sources import check, errors


def auth(of: str, url: str = "https://h.example/mcp", more: str = "") -> str:
    """A server whose `auth`, on line 4, is in question."""
    return f'servers:\n  - endpoints: ["{url}"]\n    auth: {of}\n    name: s\n{more}'


def oauth(rest: str, client: str = "{id: a, type: jwtSvid}") -> str:
    """An `oauth` with more in it."""
    return auth(f"{{type: oauth, tokenUrl: 'https://i/t', client: {client}, {rest}}}")


AT = "4: servers[0].auth"
ID = "not the SPIFFE ID of a workload"
GLOB = "not a glob on SPIFFE IDs"


@check(
    {
        "misspelt": (auth("{type: spifee}"), f'{AT}.type: unknown type "spifee" (did you mean "spiffe"?)'),
        "text": (auth("spiffe"), f'{AT}: expected a mapping, found the text "spiffe" (write {{type: spiffe}})'),
        "no type": (auth("{audience: a}"), f"{AT}: `type` is required (one of: spiffe, jwtSvid, header, oauth, none)"),
        "none with more": (auth("{type: none, audience: a}"), f'{AT}: unknown key "audience" (known here: type)'),
        "no IDs": (auth("{type: spiffe}"), f"{AT}: `serverIds` is required"),
        "empty IDs": (
            auth("{type: spiffe, serverIds: []}"),
            f"{AT}.serverIds: an empty list "
            '(write the SPIFFE ID of the server: ["spiffe://prod.acme.example/ns/tools/sa/x"])',
        ),
        "no ID": (
            auth("{type: spiffe, serverIds: [zendesk]}"),
            f'{AT}.serverIds[0]: {ID}: "zendesk" (does not begin with spiffe://)',
        ),
        "ID of a domain": (
            auth("{type: spiffe, serverIds: ['spiffe://a']}"),
            f'{AT}.serverIds[0]: {ID}: "spiffe://a" (the ID of a trust domain, not of a workload: it has no path)',
        ),
        "everything": (
            auth("{type: spiffe, serverIds: ['*']}"),
            f'{AT}.serverIds[0]: {GLOB}: "*" (write spiffe://<trust domain>/<path>)',
        ),
        "glob in the domain": (
            auth("{type: spiffe, serverIds: ['spiffe://*.acme/x']}"),
            f'{AT}.serverIds[0]: {GLOB}: "spiffe://*.acme/x" '
            "(the trust domain is named exactly, * and ? stand in the path alone)",
        ),
        "glob that spans the domain": (
            auth("{type: spiffe, serverIds: ['spiffe://acme*']}"),
            f'{AT}.serverIds[0]: {GLOB}: "spiffe://acme*" (write spiffe://<trust domain>/<path>)',
        ),
        "glob no path can match": (
            auth("{type: spiffe, serverIds: ['spiffe://a/b//*']}"),
            f'{AT}.serverIds[0]: {GLOB}: "spiffe://a/b//*" '
            "(path segments are letters, digits, '.', '_' and '-', not empty, neither '.' nor '..')",
        ),
        "ID twice": (
            auth("{type: spiffe, serverIds: ['spiffe://a/b', 'spiffe://a/b']}"),
            f'{AT}.serverIds[1]: duplicate server ID "spiffe://a/b" (first at line 4)',
        ),
        "mTLS over http": (
            auth("{type: spiffe, serverIds: ['spiffe://a/b']}", "http://127.0.0.1/"),
            f"{AT}: `type: spiffe` is mTLS, and http://127.0.0.1/ is http (write https:// in the endpoints)",
        ),
        "mTLS and web TLS": (
            auth("{type: spiffe, serverIds: ['spiffe://a/b']}", more="    tls: {serverName: x}"),
            "6: servers[0].tls: `tls` has no meaning with `auth: {type: spiffe}` "
            "(serverIds say whom we trust: remove `tls`)",
        ),
        "no audience": (auth("{type: jwtSvid}"), f"{AT}: `audience` is required"),
        "several audiences": (
            auth("{type: jwtSvid, audience: [a]}"),
            f"{AT}.audience: expected text, found a list",
        ),
    }
)
def test_by_svid(text, expected):
    assert errors(text) == expected


CLEAR = (
    "the credential would go to http://h.example/ in the clear "
    "(write https:// in the endpoints, or allowHttp: true where the way is encrypted otherwise)"
)


@pytest.mark.parametrize(
    "of",
    [
        "{type: jwtSvid, audience: a}",
        "{type: header, name: X-Key, value: {env: KEY}}",
        "{type: header, name: X-Key, value: {env: KEY}, allowHttp: false}",
        "{type: oauth, tokenUrl: 'https://i/t', client: {id: a, type: jwtSvid}}",
    ],
)
def test_a_credential_does_not_leave_the_machine_in_the_clear(of):
    assert errors(auth(of, "http://h.example/")) == [f"{AT}: {CLEAR}"]


OURS = "it belongs to the protocol: Authorization or X-API-Key is usual"


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Content-Type", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Expect"),
        *("Accept", "Accept-Encoding", "Mcp-Session-Id", "mcp-name", "Last-Event-ID", "traceparent", "Origin"),
        *("Forwarded", "X-Forwarded-Client-Cert", "User-Agent", "Proxy-Connection"),
    ],
)
def test_headers_that_are_not_for_secrets(name):
    text = auth(f"{{type: header, name: {name}, value: {{env: KEY}}}}")
    assert errors(text) == [f"{AT}.name: the header {name} is not for a secret ({OURS})"]


@check(
    {
        "nothing": (auth("{type: header}"), f"{AT}: `name` is required", f"{AT}: `value` is required"),
        "no name": (
            auth("{type: header, name: 'X Key', value: {env: KEY}}"),
            f'{AT}.name: not the name of a header: "X Key" (letters, digits and -, such as X-API-Key)',
        ),
        "two lines": (
            auth('{type: header, name: "X-Key: a\\r\\nHost", value: {env: KEY}}'),
            f'{AT}.name: must be one line without control characters, found "X-Key: a\N{REPLACEMENT CHARACTER}'
            '\N{REPLACEMENT CHARACTER}Host"',
        ),
        "inline": (
            auth("{type: header, name: X-Key, value: hunter2}"),
            f"{AT}.value: a secret is never written here (write {{file: PATH}} or {{env: NAME}})",
        ),
        "prefix": (
            auth("{type: header, name: X-Key, prefix: 'Größe ', value: {env: KEY}}"),
            f"{AT}.prefix: not what can stand before a secret "
            '(printable ASCII, with a blank at the end where one is wanted: "Bearer ")',
        ),
    }
)
def test_by_header(text, expected):
    assert errors(text) == expected


@check(
    {
        "nothing": (auth("{type: oauth}"), f"{AT}: `tokenUrl` is required", f"{AT}: `client` is required"),
        "token in the clear": (
            auth("{type: oauth, tokenUrl: 'http://i.example/t', client: {id: a, type: jwtSvid}}"),
            f"{AT}.tokenUrl: http to another machine: a token would be seen on the way (write https://)",
        ),
        "CA for http": (
            auth("{type: oauth, tokenUrl: 'http://localhost/t', client: {id: a, type: jwtSvid}, ca: {file: c}}"),
            f"{AT}.ca: `ca` has no meaning with an http URL (write https:// in tokenUrl or remove `ca`)",
        ),
        "token URL": (
            auth("{type: oauth, tokenUrl: 'https://i/t#x?y', client: {id: a, type: jwtSvid}}"),
            f'{AT}.tokenUrl: not the URL of a token endpoint: "https://i/t#x?y" (no fragment in the URL)',
        ),
        "password in the token URL": (
            auth("{type: oauth, tokenUrl: 'https://u:hunter2@i/t', client: {id: a, type: jwtSvid}}"),
            f"{AT}.tokenUrl: not the URL of a token endpoint (no user or password in the URL)",
        ),
        "client": (
            oauth("scopes: [a]", "{}"),
            f"{AT}.client: `id` is required",
            f"{AT}.client: `type` is required",
        ),
        "type of client": (
            oauth("scopes: [a]", "{id: a, type: jwtsvid}"),
            f'{AT}.client.type: unknown type "jwtsvid" (did you mean "jwtSvid"?)',
        ),
        "no secret": (
            oauth("scopes: [a]", "{id: a, type: secret}"),
            f"{AT}.client: `secret` is required with `type: secret` "
            "(write secret: {file: PATH}, or type: jwtSvid to have none)",
        ),
        "secret of too much": (
            oauth("scopes: [a]", "{id: a, type: jwtSvid, secret: {file: x}}"),
            f"{AT}.client.secret: `secret` has no meaning with `type: jwtSvid` "
            "(the client is known by its SVID: remove it)",
        ),
        "audience of a secret": (
            oauth("scopes: [a]", "{id: a, type: secret, secret: {file: x}, audience: b}"),
            f"{AT}.client.audience: `audience` has no meaning with `type: secret` "
            "(it is that of a JWT-SVID: remove it)",
        ),
        "secret inline": (
            oauth("scopes: [a]", "{id: a, type: secret, secret: hunter2}"),
            f"{AT}.client.secret: a secret is never written here (write {{file: PATH}} or {{env: NAME}})",
        ),
        "resource": (
            oauth("resource: /mcp"),
            f'{AT}.resource: not a resource: "/mcp" (an absolute URI without a fragment, the URL of the MCP server)',
        ),
        "resource with fragment": (
            oauth("resource: 'https://h/#a'"),
            f'{AT}.resource: not a resource: "https://h/#a" '
            "(an absolute URI without a fragment, the URL of the MCP server)",
        ),
        "scopes in one": (
            oauth("scopes: ['a b']"),
            f'{AT}.scopes[0]: not a scope: "a b" (each an entry of the list, without blanks and quotes)',
        ),
        "no scopes": (
            oauth("scopes: []"),
            f"{AT}.scopes: an empty list (remove the key to ask for what the server gives by default)",
        ),
        "scope twice": (
            oauth("scopes: [a, a]"),
            f'{AT}.scopes[1]: duplicate scope "a" (first at line 4)',
        ),
    }
)
def test_by_oauth(text, expected):
    assert errors(text) == expected
