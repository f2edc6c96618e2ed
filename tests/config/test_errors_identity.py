"""Each mistake has a message of its own: TLS of the listener, our own SVID, how callers are known."""

from tests.config.sources import check, errors

TYPES = "mtls, jwtSvid, jwt, apiKey, forwarded, workload, none"
DOMAIN = "not the name of a trust domain"
ALGORITHMS = "(one of: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA)"


def tls(of: str) -> str:
    """A listener whose TLS is in question."""
    return f"listen: {{tls: {of}}}"


@check(
    {
        "text": (
            tls("web"),
            '2: listen.tls: expected a mapping, found the text "web" '
            "(write {certificate: {file: PATH}, key: {file: PATH}}, or {type: spiffe, ...})",
        ),
        "type": (tls("{type: spifee}"), '2: listen.tls.type: unknown type "spifee" (did you mean "spiffe"?)'),
        "no key": (tls("{certificate: {file: a}}"), "2: listen.tls: `key` is required"),
        "nothing": (tls("{}"), "2: listen.tls: `certificate` is required", "2: listen.tls: `key` is required"),
        "inline": (
            tls("{certificate: {file: a}, key: hunter2}"),
            "2: listen.tls.key: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "domains without type": (
            tls("{trustDomains: [a]}"),
            "2: listen.tls: `trustDomains` belongs to `type: spiffe` (write {type: spiffe, trustDomains: [...]})",
        ),
        "spiffe with files": (
            tls("{type: spiffe, trustDomains: [a], certificate: {file: a}}"),
            '2: listen.tls: unknown key "certificate" (known here: trustDomains, type)',
        ),
        "spiffe without domains": (tls("{type: spiffe}"), "2: listen.tls: `trustDomains` is required"),
        "no domains": (
            tls("{type: spiffe, trustDomains: []}"),
            "2: listen.tls.trustDomains: an empty list (write the names of trust domains, such as [prod.acme.example])",
        ),
        "ID for a domain": (
            tls('{type: spiffe, trustDomains: ["spiffe://prod.acme.example/ns/a"]}'),
            f'2: listen.tls.trustDomains[0]: {DOMAIN}: "spiffe://prod.acme.example/ns/a" (write prod.acme.example)',
        ),
        "capitals": (
            tls("{type: spiffe, trustDomains: [Prod]}"),
            f'2: listen.tls.trustDomains[0]: {DOMAIN}: "Prod" (write prod)',
        ),
        "glob": (
            tls('{type: spiffe, trustDomains: ["*.acme"]}'),
            f'2: listen.tls.trustDomains[0]: {DOMAIN}: "*.acme" (each one by its name: globs do not stand here)',
        ),
        "no name": (
            tls('{type: spiffe, trustDomains: ["a b"]}'),
            f'2: listen.tls.trustDomains[0]: {DOMAIN}: "a b" '
            "(1 to 255 of a-z, 0-9, . _ and -, such as prod.acme.example)",
        ),
        "twice": (
            tls("{type: spiffe, trustDomains: [a, b, a]}"),
            '2: listen.tls.trustDomains[2]: duplicate trust domain "a" (first at line 2)',
        ),
        "url with path": (
            'listen: {url: "https://gateway.example/mcp"}',
            '2: listen.url: not an origin: "https://gateway.example/mcp" '
            "(scheme, host and port alone, such as https://app.example; each one by name)",
        ),
        "url with a port that there is not": (
            'listen: {url: "https://gateway.example:70000"}',
            '2: listen.url: not an origin: "https://gateway.example:70000" '
            "(scheme, host and port alone, such as https://app.example; each one by name)",
        ),
    }
)
def test_listen(text, expected):
    assert errors(text) == expected


def api(address: str) -> str:
    """A Workload API at this address."""
    return f"identity: {{workloadApi: '{address}'}}"


API = "2: identity.workloadApi: not the address of a Workload API"
BOTH = "write unix:///run/spire/agent-sockets/api.sock or tcp://127.0.0.1:8081"
NAME = "behind tcp:// stands an IP address, not a name: no name service can be trusted before there is an identity"


@check(
    {
        "path": (api("/run/api.sock"), f'{API}: "/run/api.sock" ({BOTH})'),
        "relative": (
            api("unix://run/api.sock"),
            f'{API}: "unix://run/api.sock" (behind unix:// stands an absolute path: unix:///run/...)',
        ),
        "no path": (
            api("unix:///"),
            f'{API}: "unix:///" (behind unix:// stands an absolute path: unix:///run/...)',
        ),
        "query": (api("unix:///a?b"), f'{API}: "unix:///a?b" (no query and no fragment)'),
        "blank": (api("unix:///a b"), f'{API}: "unix:///a b" (only printable ASCII without blanks)'),
        "scheme": (api("http://127.0.0.1:1"), f'{API}: "http://127.0.0.1:1" ({BOTH})'),
        "name": (api("tcp://localhost:8081"), f'{API}: "tcp://localhost:8081" ({NAME})'),
        "no host": (api("tcp://:8081"), f'{API}: "tcp://:8081" ({NAME})'),
        "no port": (api("tcp://10.0.0.1"), f'{API}: "tcp://10.0.0.1" (the port is missing: tcp://127.0.0.1:8081)'),
        "bad port": (api("tcp://10.0.0.1:x"), f'{API}: "tcp://10.0.0.1:x" (the address or the port cannot be read)'),
        "tcp with path": (
            api("tcp://10.0.0.1:1/x"),
            f'{API}: "tcp://10.0.0.1:1/x" (tcp:// is followed by an IP address and a port alone)',
        ),
        "no text": (
            "identity: {workloadApi: false}",
            '2: identity.workloadApi: expected text, found the boolean false (put it in quotes: "false")',
        ),
        "hint and id": (
            "identity: {svid: {hint: a, id: 'spiffe://a/b'}}",
            "2: identity.svid: exactly one of `hint` and `id` is wanted (write {hint: HINT} or {id: SPIFFE-ID})",
        ),
        "neither": (
            "identity: {svid: {}}",
            "2: identity.svid: exactly one of `hint` and `id` is wanted (write {hint: HINT} or {id: SPIFFE-ID})",
        ),
        "ID of a domain": (
            "identity: {svid: {id: 'spiffe://a'}}",
            '2: identity.svid.id: not the SPIFFE ID of a workload: "spiffe://a" '
            "(the ID of a trust domain, not of a workload: it has no path)",
        ),
        "without the Workload API": (
            "identity: {workloadApi: none, svid: {hint: a}}",
            "2: identity.svid: `svid` has no meaning with `workloadApi: none` (remove one of them)",
        ),
    }
)
def test_who_we_are(text, expected):
    assert errors(text) == expected


def method(entry: str) -> str:
    """One way to know callers, on line 3."""
    return f"identity: {{agents: [\n  {entry}]}}"


def jwt(rest: str) -> str:
    """A `jwt` entry with more in it."""
    return method(f"{{type: jwt, issuer: 'https://i', audience: a, {rest}}}")


KEYS = "jwks: {file: k}"
AT = "3: identity.agents[0]"


@check(
    {
        "text for a method": (
            "identity: {agents: [workload]}",
            '2: identity.agents[0]: expected a mapping, found the text "workload" (write {type: workload})',
        ),
        "mtls": (method("{type: mtls}"), f"{AT}: `trustDomains` is required"),
        "jwtSvid": (
            method("{type: jwtSvid}"),
            f"{AT}: `audience` is required",
            f"{AT}: `trustDomains` is required",
        ),
        "several audiences of a JWT-SVID": (
            method("{type: jwtSvid, audience: [a, b], trustDomains: [a]}"),
            f"{AT}.audience: expected text, found a list",
        ),
        "jwt": (
            method("{type: jwt}"),
            f"{AT}: `issuer` is required",
            f"{AT}: `audience` is required",
            f"{AT}: `jwks` is required",
        ),
        "issuer with fragment": (
            method(f"{{type: jwt, issuer: 'https://i#a', audience: a, {KEYS}}}"),
            f'{AT}.issuer: not an issuer: "https://i#a" '
            "(an issuer has no fragment (#): callers are jwt:<issuer>#<sub>)",
        ),
        "issuer with blank": (
            method(f"{{type: jwt, issuer: 'a b', audience: a, {KEYS}}}"),
            f'{AT}.issuer: not an issuer: "a b" (printable ASCII without blanks, just as `iss` has it)',
        ),
        "no audiences": (
            method(f"{{type: jwt, issuer: i, audience: [], {KEYS}}}"),
            f"{AT}.audience: an empty list (write the audience that tokens for this gateway have)",
        ),
        "same audience twice": (
            method(f"{{type: jwt, issuer: i, audience: [a, a], {KEYS}}}"),
            f'{AT}.audience[1]: duplicate audience "a" (first at line 3)',
        ),
        "keys from nowhere": (
            jwt("jwks: {}"),
            f"{AT}.jwks: exactly one of `url` and `file` is wanted (write {{url: URL}} or {{file: PATH}})",
        ),
        "keys from both": (
            jwt("jwks: {url: 'https://i/k', file: k}"),
            f"{AT}.jwks: exactly one of `url` and `file` is wanted (write {{url: URL}} or {{file: PATH}})",
        ),
        "keys in the clear": (
            jwt("jwks: {url: 'http://i.example/k'}"),
            f"{AT}.jwks.url: http to another machine: keys that anybody on the way can change prove nothing "
            "(write https://)",
        ),
        "a name that begins like loopback": (
            jwt("jwks: {url: 'http://127.0.0.1.evil.example/k'}"),
            f"{AT}.jwks.url: http to another machine: keys that anybody on the way can change prove nothing "
            "(write https://)",
        ),
        "CA for a file": (
            jwt("jwks: {file: k, ca: {file: ca.pem}}"),
            f"{AT}.jwks.ca: `ca` has no meaning without an https URL (remove it)",
        ),
        "CA for http": (
            jwt("jwks: {url: 'http://localhost/k', ca: {file: ca.pem}}"),
            f"{AT}.jwks.ca: `ca` has no meaning without an https URL (remove it)",
        ),
        "a claim that names nobody": (
            jwt(f"{KEYS}, principalClaim: aud"),
            f"{AT}.principalClaim: the claim `aud` names no caller "
            "(write sub, or another claim that the issuer gives once only)",
        ),
        "HS256": (
            jwt(f"{KEYS}, algorithms: [RS256, HS256]"),
            f"{AT}.algorithms[1]: `HS256` is symmetric: whoever can verify a token can make one {ALGORITHMS}",
        ),
        "none": (
            jwt(f"{KEYS}, algorithms: [none]"),
            f"{AT}.algorithms[0]: `none` is no signature: anybody can make such a token {ALGORITHMS}",
        ),
        "near": (
            jwt(f"{KEYS}, algorithms: [rs256]"),
            f'{AT}.algorithms[0]: unknown algorithm "rs256" (did you mean "RS256"?)',
        ),
        "far": (jwt(f"{KEYS}, algorithms: [X]"), f'{AT}.algorithms[0]: unknown algorithm "X" {ALGORITHMS}'),
        "no algorithms": (
            jwt(f"{KEYS}, algorithms: []"),
            f"{AT}.algorithms: an empty list (remove the key, or name what the issuer signs with)",
        ),
        "algorithm twice": (
            jwt(f"{KEYS}, algorithms: [RS256, RS256]"),
            f'{AT}.algorithms[1]: duplicate algorithm "RS256" (first at line 3)',
        ),
        "skew": (
            jwt(f"{KEYS}, clockSkew: 6m"),
            f"{AT}.clockSkew: must be at most 5m, found 6m (a token would live on for as long after its end)",
        ),
        "forwarded": (method("{type: forwarded}"), f"{AT}: `from` is required"),
        "from nobody": (
            method("{type: forwarded, from: []}"),
            f"{AT}.from: an empty list (write the addresses of the proxies: [127.0.0.1/32])",
        ),
        "from a name": (
            method("{type: forwarded, from: [proxy.example]}"),
            f'{AT}.from[0]: not a network: "proxy.example" (write an address and a prefix: 10.0.0.0/8, 2001:db8::/32)',
        ),
        "network twice": (
            method("{type: forwarded, from: [10.0.0.0/8, 10.0.0.0/8]}"),
            f'{AT}.from[1]: duplicate network "10.0.0.0/8" (first at line 3)',
        ),
        "bits behind the prefix": (
            method("{type: forwarded, from: [10.1.2.3/8]}"),
            f'{AT}.from[0]: not a network: "10.1.2.3/8" has bits behind its prefix (write 10.0.0.0/8, or 10.1.2.3)',
        ),
        "workload has nothing in it": (
            method("{type: workload, trustDomains: [a]}"),
            f'{AT}: unknown key "trustDomains" (known here: type)',
        ),
        "same type twice": (
            method("{type: workload},\n  {type: workload}"),
            '4: identity.agents[1]: duplicate type "workload" (first at line 3)',
        ),
        "same issuer twice": (
            method(f"{{type: jwt, issuer: i, audience: a, {KEYS}}},\n  {{type: jwt, issuer: i, audience: b, {KEYS}}}"),
            '4: identity.agents[1].issuer: duplicate issuer "i" (first at line 3)',
        ),
    }
)
def test_agents(text, expected):
    assert errors(text) == expected


NONE = "the Workload API gives what this needs, and `identity.workloadApi` is none"
REMEDY = "(write its address, or take another type here)"
CERTIFICATES = "(write listen.tls: {type: spiffe, trustDomains: [...]}, or certificate, key and clientCa)"


@check(
    {
        "all that needs it": (
            "listen: {tls: {type: spiffe, trustDomains: [a]}}\n"
            "identity:\n"
            "  workloadApi: none\n"
            "  agents:\n"
            "    - {type: mtls, trustDomains: [a]}\n"
            "    - {type: jwtSvid, audience: x, trustDomains: [a]}\n"
            "    - {type: workload}\n"
            "servers:\n"
            "  - {name: a, endpoints: ['https://h/'], auth: {type: spiffe, serverIds: ['spiffe://a/b']}}\n"
            "  - {name: b, endpoints: ['https://h/'], auth: {type: jwtSvid, audience: x}}\n"
            "  - name: c\n"
            "    endpoints: ['https://h/']\n"
            "    auth: {type: oauth, tokenUrl: 'https://h/', client: {id: a, type: jwtSvid}}\n",
            f"2: listen.tls: {NONE} {REMEDY}",
            f"7: identity.agents[1]: {NONE} {REMEDY}",
            f"8: identity.agents[2]: {NONE} {REMEDY}",
            f"10: servers[0].auth: {NONE} {REMEDY}",
            f"11: servers[1].auth: {NONE} {REMEDY}",
            f"14: servers[2].auth: {NONE} {REMEDY}",
        ),
        "mtls without TLS": (
            method("{type: mtls, trustDomains: [a]}"),
            f"{AT}: `type: mtls` needs TLS on the listener {CERTIFICATES}",
        ),
        "mtls without a client CA": (
            "listen: {tls: {certificate: {file: a}, key: {file: b}}}\n"
            "identity: {agents: [{type: mtls, trustDomains: [a]}]}",
            "3: identity.agents[0]: `listen.tls` asks for no client certificates (write clientCa there, "
            "or type: spiffe)",
        ),
        "a domain that the handshake refuses": (
            "listen: {tls: {type: spiffe, trustDomains: [a, b]}}\n"
            "identity: {agents: [{type: mtls, trustDomains: [b, c]}]}",
            "3: identity.agents[0].trustDomains[1]: `listen.tls` refuses agents of c "
            "(add it to listen.tls.trustDomains, or remove it)",
        ),
    }
)
def test_what_does_not_fit_together(text, expected):
    assert errors(text) == expected
