"""Each mistake has a message of its own: what the sections may hold."""

from tests.config.sources import check, errors, rule, server

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MAKE_DIGEST = """(make one with: printf %s "$KEY" | sha256sum)"""
NAME_HINT = "(letters, digits, . _ and -, beginning and ending with a letter or digit)"

ADDRESS = '2: listen.mcp: not an address to listen on: "{}" ({})'


@check(
    {
        "port alone": (
            "listen: {mcp: 15001}",
            "2: listen.mcp: expected host:port, found the number 15001 (write 127.0.0.1:15001)",
        ),
        "no port": (
            "listen: {mcp: localhost}",
            ADDRESS.format("localhost", "write host:port, such as 127.0.0.1:15001"),
        ),
        "no host": (
            'listen: {mcp: ":80"}',
            ADDRESS.format(
                ":80", "for every interface write 0.0.0.0:80 or [::]:80, for this machine alone 127.0.0.1:80"
            ),
        ),
        "star": (
            'listen: {mcp: "*:80"}',
            ADDRESS.format(
                "*:80", "for every interface write 0.0.0.0:80 or [::]:80, for this machine alone 127.0.0.1:80"
            ),
        ),
        "port too large": ("listen: {mcp: a:65536}", ADDRESS.format("a:65536", "the port is a number from 0 to 65535")),
        "port no number": ("listen: {mcp: a:http}", ADDRESS.format("a:http", "the port is a number from 0 to 65535")),
        "no brackets": (
            'listen: {mcp: "::1:80"}',
            ADDRESS.format("::1:80", "an IPv6 address goes in brackets: [::1]:15001"),
        ),
        "bad brackets": (
            'listen: {mcp: "[::zz]:80"}',
            ADDRESS.format("[::zz]:80", "the part in brackets is not an IPv6 address"),
        ),
        "bad host": ('listen: {mcp: "a b:80"}', ADDRESS.format("a b:80", "the host is an IP address or a name")),
        "same address twice": (
            "listen: {mcp: 127.0.0.1:1, admin: 127.0.0.1:1}",
            "2: listen: `mcp` and `admin` have the same address 127.0.0.1:1",
        ),
        "origin": (
            'listen: {allowedOrigins: ["*"]}',
            '2: listen.allowedOrigins[0]: not an origin: "*" '
            "(scheme, host and port alone, such as https://app.example; each one by name)",
        ),
        "origin with path": (
            'listen: {allowedOrigins: ["https://a.example/"]}',
            '2: listen.allowedOrigins[0]: not an origin: "https://a.example/" '
            "(scheme, host and port alone, such as https://app.example; each one by name)",
        ),
        "host with wildcard": (
            'listen: {allowedHosts: ["*.example"]}',
            '2: listen.allowedHosts[0]: not a host: "*.example" '
            "(a host name with or without :port, no scheme, no wildcard)",
        ),
    }
)
def test_listen(text, expected):
    assert errors(text) == expected


def keys(entry: str) -> str:
    """API keys, the one in question on line 3."""
    return f"identity: {{agents: [{{type: apiKey, keys: [\n  {entry}]}}]}}"


KEY = "identity.agents[0].keys[0]"


@check(
    {
        "unknown type": (
            "identity: {agents: [{type: apikeys}]}",
            '2: identity.agents[0].type: unknown type "apikeys" (did you mean "apiKey"?)',
        ),
        "no type": (
            "identity: {agents: [{}]}",
            "2: identity.agents[0]: `type` is required (one of: mtls, jwtSvid, jwt, apiKey, forwarded, workload, none)",
        ),
        "type alone": (
            "identity: {agents: [none]}",
            '2: identity.agents[0]: expected a mapping, found the text "none" (write {type: none})',
        ),
        "no keys": ("identity: {agents: [{type: apiKey}]}", "2: identity.agents[0]: `keys` is required"),
        "empty keys": (
            "identity: {agents: [{type: apiKey, keys: []}]}",
            "2: identity.agents[0].keys: an empty list (write {name: NAME, sha256: DIGEST})",
        ),
        "key without digest": (keys("{name: a}"), f"3: {KEY}: `sha256` is required"),
        "name": (keys(f'{{name: "a b", sha256: {DIGEST}}}'), f'3: {KEY}.name: not a name: "a b" {NAME_HINT}'),
        "short digest": (
            keys("{name: a, sha256: my-secret-key}"),
            f"3: {KEY}.sha256: not a SHA-256 digest: 64 hexadecimal digits expected, found 13 characters {MAKE_DIGEST}",
        ),
        "digest of nothing": (
            keys(f"{{name: a, sha256: {EMPTY_DIGEST}}}"),
            f"3: {KEY}.sha256: this is the digest of the empty text {MAKE_DIGEST}",
        ),
        "capital digest": (
            keys(f"{{name: a, sha256: {DIGEST.upper()}}}"),
            f"3: {KEY}.sha256: a SHA-256 digest is written in lower case (write {DIGEST})",
        ),
        "no digest": (
            keys("{name: a, sha256: }"),
            f"3: {KEY}.sha256: expected a SHA-256 digest, found nothing {MAKE_DIGEST}",
        ),
        "same name and key twice": (
            keys(f"{{name: a, sha256: {DIGEST}}},\n  {{name: a, sha256: {DIGEST}}}"),
            '4: identity.agents[0].keys[1].name: duplicate key name "a" (first at line 3)',
            f'4: identity.agents[0].keys[1].sha256: duplicate key sha256 "{DIGEST[:57]}..." (first at line 3)',
        ),
    }
)
def test_agents(text, expected):
    assert errors(text) == expected


URL = "not the URL of an MCP server"


def endpoints(urls: str) -> str:
    """A server with these endpoints, on line 2."""
    return f"servers: [{{name: s, endpoints: [{urls}]}}]"


@check(
    {
        "none": (endpoints(""), "2: servers[0].endpoints: an empty list (write the URL of the MCP server)"),
        "not a list": (
            "servers: [{name: s, endpoints: http://h}]",
            '2: servers[0].endpoints: expected a list, found the text "http://h" (write ["http://h"])',
        ),
        "scheme": (
            endpoints("ftp://h"),
            f'2: servers[0].endpoints[0]: {URL}: "ftp://h" (begin with http:// or https://)',
        ),
        "no scheme": (
            endpoints("h/mcp"),
            f'2: servers[0].endpoints[0]: {URL}: "h/mcp" (begin with http:// or https://)',
        ),
        "no host": (
            endpoints('"http:///mcp"'),
            f'2: servers[0].endpoints[0]: {URL}: "http:///mcp" '
            "(name a host and, where it is not the usual one, a port from 1 to 65535)",
        ),
        "bad port": (
            endpoints('"http://h:99999/"'),
            f'2: servers[0].endpoints[0]: {URL}: "http://h:99999/" (the host or port cannot be read)',
        ),
        "bad brackets": (
            endpoints('"http://[::1/"'),
            f'2: servers[0].endpoints[0]: {URL}: "http://[::1/" (the host or port cannot be read)',
        ),
        "password is not repeated": (
            endpoints('"http://u:hunter2@h/"'),
            f"2: servers[0].endpoints[0]: {URL} (no user or password in the URL)",
        ),
        "query": (endpoints('"http://h/?"'), f'2: servers[0].endpoints[0]: {URL}: "http://h/?" (no query in the URL)'),
        "fragment": (
            endpoints('"http://h/#x"'),
            f'2: servers[0].endpoints[0]: {URL}: "http://h/#x" (no fragment in the URL)',
        ),
        "blank": (
            endpoints('"http://h/a b"'),
            f'2: servers[0].endpoints[0]: {URL}: "http://h/a b" (only printable ASCII without blanks)',
        ),
        "twice": (
            endpoints('"http://h/", "http://h/"'),
            '2: servers[0].endpoints[1]: duplicate endpoint "http://h/" (first at line 2)',
        ),
        "mixed": (
            endpoints('"http://h/", "https://h/"'),
            "2: servers[0].endpoints: the endpoints of one server must all be http or all be https",
        ),
        "tls on http": (
            server("tls: {serverName: x}"),
            "4: servers[0].tls: `tls` has no meaning for http endpoints "
            "(write https:// in the endpoints or remove `tls`)",
        ),
        "own listener": (
            endpoints('"http://localhost:15001/mcp"'),
            "2: servers[0].endpoints: http://localhost:15001/mcp is the listener of this gateway: "
            "a call would go round for ever",
        ),
    }
)
def test_endpoints(text, expected):
    assert errors(text) == expected


@check(
    {
        "relative": (server("path: x"), '4: servers[0].path: not a path: "x" (a path begins with /: "/x")'),
        "query": (server("path: /x?y"), '4: servers[0].path: not a path: "/x?y" (a path has no query and no fragment)'),
        "slash at the end": (server("path: /x/"), '4: servers[0].path: not a path: "/x/" (no slash at the end: "/x")'),
        "two slashes": (
            server("path: /x//y"),
            '4: servers[0].path: not a path: "/x//y" '
            "(segments of letters, digits and . _ ~ -, one / between them, neither . nor .. alone)",
        ),
        "dots": (
            server("path: /x/../y"),
            '4: servers[0].path: not a path: "/x/../y" '
            "(segments of letters, digits and . _ ~ -, one / between them, neither . nor .. alone)",
        ),
        "escape": (
            server("path: /%78"),
            '4: servers[0].path: not a path: "/%78" '
            "(segments of letters, digits and . _ ~ -, one / between them, neither . nor .. alone)",
        ),
        "reserved": (
            server("path: /.well-known/x"),
            '4: servers[0].path: not a path: "/.well-known/x" '
            "(what lies under /.well-known is not for servers (RFC 8615))",
        ),
        "names and paths": (
            "servers:\n"
            "  - {name: a, endpoints: ['http://h/']}\n"
            "  - {name: a, endpoints: ['http://h/']}\n"
            "  - {name: c, endpoints: ['http://h/'], path: /b}\n"
            "  - {name: b, endpoints: ['http://h/']}\n",
            '4: servers[1].name: duplicate server name "a" (first at line 3)',
            '6: servers[3]: duplicate server path "/b" (first at line 5)',
        ),
        "name": (
            "servers: [{name: /etc, endpoints: ['http://h/']}]",
            f'2: servers[0].name: not a name: "/etc" {NAME_HINT}',
        ),
        "secret inline": (
            "servers: [{name: s, endpoints: ['https://h/'], tls: {ca: hunter2}}]",
            "2: servers[0].tls.ca: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "secret twice": (
            "sessions: {key: {file: a, env: B}}",
            "2: sessions.key: exactly one of `file` and `env` is wanted (write {file: PATH} or {env: NAME})",
        ),
        "secret by value": (
            "sessions: {key: {value: hunter2}}",
            "2: sessions.key: exactly one of `file` and `env` is wanted (write {file: PATH} or {env: NAME})",
        ),
        "value for variable": (
            "sessions: {key: {env: hunter+2}}",
            "2: sessions.key.env: not the name of an environment variable "
            "(letters, digits and _; the name, not the value)",
        ),
    }
)
def test_servers(text, expected):
    assert errors(text) == expected


EMPTY = "it selects nothing, while a rule without selectors holds for everything: remove the key or fill it"


@check(
    {
        "no servers": ("policies: [{name: p}]", "2: policies[0]: `servers` is required"),
        "empty servers": (
            "policies: [{name: p, servers: []}]",
            '2: policies[0].servers: an empty list (write the names of servers, or ["*"] for all)',
        ),
        "empty agents": (
            "policies: [{name: p, servers: [s], agents: []}]",
            "2: policies[0].agents: an empty list (remove the key where the policy holds for every agent)",
        ),
        "empty selector": (
            rule("{name: r, action: allow, tools: []}"),
            f"5: policies[0].requests[0].tools: an empty list ({EMPTY})",
        ),
        "rule without action": (rule("{name: r}"), "5: policies[0].requests[0]: `action` is required"),
        "rule names": (
            rule("{name: r, action: deny},\n    {name: r, action: allow}"),
            '6: policies[0].requests[1].name: duplicate rule name "r" (first at line 5)',
        ),
        "policy names": (
            "policies:\n  - {name: p, servers: [s]}\n  - {name: p, servers: [s]}",
            '4: policies[1].name: duplicate policy name "p" (first at line 3)',
        ),
    }
)
def test_policies(text, expected):
    assert errors(text) == expected
