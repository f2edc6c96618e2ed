"""Values at the edges of what each key takes: the API server never refuses what `validate` accepts, and where it
accepts what `validate` refuses, it is known why."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmcp.config import ConfigurationError, load
from openmcp.config.kubernetes.crds import definitions
from tests.support.golden import FOLDER
from tests.support.kubernetes import KubeApi, Rejected
from tests.support.process import ROOT

pytestmark = pytest.mark.real

Spec = dict[str, Any]
API_VERSION = "openmcp.dev/v1alpha1"
PINNED = "0" * 64
WORKFLOW = {
    "apiVersion": API_VERSION,
    "kind": "ApprovalWorkflow",
    "metadata": {"name": "w"},
    "spec": {"approvers": ["token:x"]},
}


def words(text: str) -> list[str]:
    return text.split()


def server(**keys: Any) -> Spec:
    return {"endpoints": ["https://a/"], **keys}


def header(**keys: Any) -> Spec:
    return server(auth={"type": "header", "name": "X", "value": {"env": "X"}, **keys})


def oauth(**keys: Any) -> Spec:
    client = {"id": "x", "type": "jwtSvid"}
    return server(auth={"type": "oauth", "tokenUrl": "https://i/", "client": client, **keys})


def rule(**keys: Any) -> Spec:
    return {"servers": ["s"], "requests": [{"name": "r", "action": "allow", **keys}]}


def response(**keys: Any) -> Spec:
    return {"servers": ["s"], "responses": [{"name": "r", "action": "redact", **keys}]}


def gated(**keys: Any) -> Spec:
    return rule(action="requireApproval", approval={"workflow": "w", **keys})


URLS = [
    *words("http://a http://a/ HTTP://a/ https://a:443 https://a:/ https://a:0/ https://a:00443/ https://a:65535/"),
    *words("https://a:65536/ https://[::1]:1/ https://[::1 https://::1/ https://[fe80::1%25eth0]/ https://a_b/"),
    *words("https://-a/ https://a-/ https://a./ https://.a/ https://a/?q https://a/#f https://u@a/ https://a/@x"),
    *words("ftp://a/ //a/ https:///x https://ä/ https://a\\b/ https://a/%zz https://1.2.3.4/ https://a? https://a:x/"),
    *("https://a b/", "https://a/'\"<>{}|^`\\", "  https://a/", "https://a/\n", ""),
    *(f"https://a/{'x' * size}" for size in (2038, 2039)),
    *(f"https://{'a' * size}/" for size in (253, 254)),
]
NEAR = [
    *words(
        "http://localhost/ http://LOCALHOST/x http://127.0.0.1 http://127.9.9.9:80/t http://[::1]/ HTTP://i/ http://i/"
    ),
    *words(
        "http://[0:0:0:0:0:0:0:1]/ http://localhost.evil/ http://127.0.0.1.evil/ http://127.0.0.256/ http://localhost."
    ),
]
TOKENS = [*NEAR, *words("https://i?x=1 https://i/?x#y http://localhost@evil/ HTTPS://i/ https://i?a@b https://i/@")]
DURATIONS = [
    *words(
        "1s 0s 00s 000000001s 1000000000s 999999999s 999999999h 876000h 876001h 52560000m 52560001m 000000001h 1.5s"
    ),
    *words("1S 1d s -1s 1ms +1s 1m30s ١s"),
    *("1 s", "", 5, "5", "1s\n"),
]
PATHS = [
    *words(
        "/ /a /a/b a // /a/ /a//b /. /.. /a/./b /a/../b /... /.a /.well-known /.well-known/x /.well-knownx /a?b /a#b"
    ),
    *("/a b", "/ä", "/~a", "/a%20", "/A_B-c.d~", "/" + "a" * 4095, "/" + "a" * 4096, "/a\n", ""),
]
HEADERS = [
    *words(
        "X-API-Key Authorization authorization Host HOST Content-Type content- Mcp-X Accept Acceptx X-Forwarded-For X:"
    ),
    *words("Cookie Ä x'y Te Origin Proxy-Connection Transfer-Encoding"),
    *("X Y", "", "X-" + "a" * 300),
]
IDS = [
    *words(
        "spiffe://a/b spiffe://a/* spiffe://a/b/*/c? spiffe://A/b spiffe://a spiffe://a/ spiffe://a//b spiffe://a/b/"
    ),
    *words("spiffe://a/. spiffe://a/../b spiffe://*/b spiffe://a?/b spiffe://a:1/b spiffe://u@a/b spiffe://a/b?c"),
    *words("spiffe://a/b#c SPIFFE://a/b https://a/b spiffe://a/ä spiffe://a_b.c-d/e spiffe://a/** spiffe://.a/b"),
    *words("spiffe://-/b spiffe://a/b*. spiffe://a/.* spiffe://a/?."),
    *(f"spiffe://{'a' * size}/b" for size in (255, 256)),
    *(f"spiffe://a/{'b' * size}" for size in (2037, 2038)),
]
APPROVERS = [
    *words(
        "oidc:group:x oidc:group: oidc:user:x slack:U01 slack:W0123 slack:U0 slack:u01 slack:X012 email:a@b email:@b"
    ),
    *words("email:a@ email:a@-b email:a@b- email:a@b.c.d token:x token:-x token: user:x x oidc:group:ä"),
    *("oidc:group: x", "oidc:group:x ", "oidc:group:x y", "email:a b@c", "email:a@b c", "token:a b", ""),
    *(f"email:{'a' * size}@b" for size in (64, 65)),
    *(f"email:a@{'b' * size}" for size in (252, 253)),
    "oidc:group:" + "x" * 600,
]
PINS: list[Any] = [
    True,
    False,
    {},
    "true",
    1,
    [],
    {"x": 1},
    {"file": ""},
    {"file": "x"},
    {"file": "x", "x": 1},
    {"tools": {}},
]
PINS += [{"tools": {"a": digest}} for digest in (PINNED, PINNED[1:], "A" * 64)] + [
    {"file": "x", "tools": {"a": PINNED}}
]
AGENTS: list[Any] = ["*", "", " ", "a\tb", 5, True, [], {}, {"x": 1}, {"claims": {}}, {"claims": {"a": 5}}, "x" * 4097]
AGENTS += [{"namespace": value} for value in ("x", "", 5)] + [{"namespace": "x", "y": 1}]
AGENTS += [{"namespace": "x", "trustDomain": "y", "serviceAccount": "z", "claims": {"a": "b"}}]
VALUES: list[Any] = [
    True,
    1,
    1.5,
    1e18,
    -5,
    0,
    10**17,
    10**9,
    10**9 + 1,
    "x",
    "",
    "10.0.0.0/8",
    "10.0.0.1",
    "::/0",
    "nonsense",
]
VALUES += [[], ["10.0.0.0/8"], [1], ["x", None, True, 2.5], [[]], [{}], {}, {"a": 1}]
NAMES = [*words("a A.b_c-d -a a- ä .a"), "", "a b", "a" * 253, "a" * 254]
SCOPES = ["a", "a b", 'a"', "a\\", "ä", "a:b/c", "", "x" * 300]
OPERATORS = words("eq ne in notIn matches glob lt lte gt gte exists absent cidr lengthAtMost")


PROVED: dict[str, Spec] = {
    "spiffe": {"serverIds": ["spiffe://a/b"]},
    "jwtSvid": {"audience": "a"},
    "header": {"name": "X", "value": {"env": "X"}},
    "oauth": {"tokenUrl": "https://i/", "client": {"id": "x", "type": "jwtSvid"}},
    "none": {},
}
AUTH_KEYS = {key: value for keys in PROVED.values() for key, value in keys.items()}
AUTH_KEYS |= {"allowHttp": True, "prefix": "x", "resource": "https://a/", "scopes": ["x"], "ca": {"file": "/x"}}
CLIENTS = [
    {"id": "x", "type": kind, **keys}
    for kind in ("jwtSvid", "jwtSvidSpiffe", "secret", "other")
    for keys in ({}, {"secret": {"env": "X"}}, {"audience": "x"}, {"secret": {"env": "X"}, "audience": "x"})
]


def auths() -> Iterator[Spec]:
    """Each type with each key of another, and without each of its own."""
    for kind, keys in PROVED.items():
        yield {"type": kind, **keys}
        yield from ({"type": kind, **keys, key: value} for key, value in AUTH_KEYS.items() if key not in keys)
        yield from ({"type": kind, **{key: keys[key] for key in keys if key != left}} for left in keys)
    yield from ({"type": "oauth", "tokenUrl": "https://i/", "client": client} for client in CLIENTS)


LIMIT = {"requests": 1, "per": "1s"}
LIMITS: list[Spec] = [
    *({key: value} for key in ("requests", "burst") for value in (0, 1, 1.5, "1", 1_000_000_000, 1_000_000_001)),
    *({"by": value} for value in ([], ["agent"], ["tool", "agent"], ["agent"] * 2, ["x"], "agent")),
    *({key: value} for key in ("tools", "agents") for value in ([], ["*"], [""], "x")),
    *({"per": value} for value in ("0s", "1d", "1ms")),
    {"shared": "yes"},
    {"for": "1s"},
]
RETRIES: list[Spec] = [
    *({"attempts": value} for value in (0, 1, 10, 11)),
    *({"tools": value} for value in ([], ["a"], ["a", "a"], [1])),
    *({"budget": value} for value in (-0.1, 0, 0.5, 1, 1.01, "1")),
    *({"backoff": value} for value in ("0ms", "1ms", "x")),
]
OUTLIERS: list[Spec] = [
    *({"failures": value} for value in (0, 1, 1000, 1001)),
    *({"maxEjected": value} for value in (0, 1, 1.5)),
    *({"ejectFor": value} for value in ("0s", "1s")),
]


def servers() -> Iterator[Spec]:
    yield from (server(auth=auth) for auth in auths())
    yield from (server(name=name) for name in (*NAMES, "o", "other"))
    yield from (server(auth={"type": "spiffe", "serverIds": ids}) for ids in ([], ["spiffe://a/b"] * 2))
    yield oauth(scopes=[])
    yield from ({"endpoints": [url]} for url in URLS)
    yield from ({"endpoints": [url], "auth": {"type": "jwtSvid", "audience": "a"}} for url in NEAR)
    yield from (server(timeouts={"request": value}) for value in DURATIONS)
    yield from (server(limits={"requestBytes": value}) for value in (*words("1B 0B 4MB 64KiB 1GiB 1TiB 1024 0KiB"), 7))
    yield from (server(path=value) for value in PATHS)
    yield from (header(name=value) for value in HEADERS)
    yield from (header(prefix=value) for value in ("Bearer ", "Bearer", "a", " b", "x\ty", "é", "b" * 300))
    yield from (header(value={"env": value}) for value in ("A", "_a", "1a", "a-b", "", "a b", "é"))
    yield from (header(value={"file": value}) for value in ("/a", "a", "", "..", " ", "a\tb", "/ä ö"))
    yield from (server(auth={"type": "spiffe", "serverIds": [value]}) for value in IDS)
    yield from (oauth(resource=value) for value in ("https://a/", "urn:x", "a", "a:", "1:b", "https://a/#f", "a:b c"))
    yield from (oauth(scopes=[value]) for value in SCOPES)
    yield from (oauth(tokenUrl=value) for value in TOKENS)
    yield from (oauth(tokenUrl=value, ca={"file": "/x"}) for value in TOKENS)
    yield from (server(pinTools=value) for value in PINS)
    yield from (server(translate=value) for value in (False, True, 0))
    yield from (server(rateLimit=value) for value in ([], [{}], [LIMIT] * 100, [LIMIT] * 101))
    yield from (server(rateLimit=[{**LIMIT, **more}]) for more in LIMITS)
    yield from (server(retries=value) for value in RETRIES)
    yield from (server(outliers=value) for value in ({}, *OUTLIERS))
    yield from (server(timeouts={"tools": value}) for value in ({}, {"*": "1s"}, {"": "1s"}, {"a b": "1s"}, {"a": 1}))
    yield from (server(timeouts={"tools": {"a": value}}) for value in DURATIONS)
    yield from (server(health={"unhealthyAfter": value}) for value in (0, 1, 1000, 1001, 1.5))
    yield from (server(limits={"inFlight": value}) for value in (0, 1_000_000, 1_000_001, "5"))
    yield from (server(endpoints=[f"https://a/{each}" for each in range(count)]) for count in (0, 100, 101))
    yield from (server(**{key: value}) for key in ("retries", "stdio", "transport", "auth") for value in ({}, "x"))


def policies() -> Iterator[Spec]:
    for operator in OPERATORS:
        yield rule(when=[{"path": "$.a", "op": operator}])
        yield from (rule(when=[{"path": "$.a", "op": operator, "value": value}]) for value in VALUES)
    yield from ({"servers": ["s"], "agents": [value]} for value in AGENTS)
    yield from ({"servers": ["s"], "mode": value} for value in ("enforce", "shadow", "", "Enforce"))
    yield from (rule(name=value) for value in NAMES)
    yield from (rule(tools=value) for value in ([], [""], ["a", "a"], "a", [1], [f"t{each}" for each in range(1001)]))
    yield from (rule(message=value) for value in ("", "a\nb", "a\n", "ok", "x" * 4096, "x" * 4097))
    yield from (rule(when=[{"path": "$.a", "op": "exists"}] * count) for count in (0, 100, 101))
    yield from (gated(duration=one, maxDuration=other) for one, other in (("1h", "60m"), ("61m", "1h"), ("1ms", "1s")))
    yield from (gated(maxDuration=value) for value in DURATIONS)
    yield from (gated(maxUses=value) for value in (0, 1, 1_000_001))
    yield from (gated(show=value) for value in ([], ["$.a"], ["$." + "x" * 254], ["$." + "x" * 255]))
    yield from (response(**keys) for keys in ({}, {"detect": ["email"]}, {"patterns": ["a"]}, {"binary": {}}))
    yield from (response(binary=value) for value in ({"over": "0B"}, {"over": "1B"}, {"types": []}, {"types": ["x"]}))
    yield from (rule(detect=value) for value in ([], ["email"], ["mail"]))
    yield from (response(detect=["email"], **keys) for keys in ({"paths": []}, {"except": []}, {"except": ["a"]}))


def workflows() -> Iterator[Spec]:
    yield from ({"approvers": [value]} for value in APPROVERS)
    for keys in ({"required": 0}, {"required": 2}, {"required": 101}, {"channels": ["a", "a"]}, {"channels": ["-"]}):
        yield {"approvers": ["token:a"], **keys}
    yield {"approvers": ["oidc:group:x"], "required": 100}


CASES = {"MCPServer": [*servers()], "MCPPolicy": [*policies()], "ApprovalWorkflow": [*workflows()]}

UNKNOWABLE = [
    r"http://127\.0\.0\.256/",  # looks like an address of this machine
    "not a key that can stand here",  # schemas say nothing of keys, and rules on keys of any length cost too much
]
"""What the API server accepts of these."""

NULLS: list[Spec] = [
    {"servers": ["s"], "agents": None},
    {"servers": ["s"], "agents": [None]},
    {"servers": ["s"], "mode": "enforce", "requests": None},
    rule(tools=None),
    rule(when=None),
    rule(when=[{"path": "$.a", "op": "exists", "value": None}]),
]
"""Kept as they are, so that they are told of: a list of agents that is left empty is not everybody."""


@pytest.fixture(scope="module")
def cluster(kube: KubeApi) -> KubeApi:
    for file in sorted((ROOT / "manifests" / "crds").glob("*.yaml")):
        kube.apply(file.read_text())
    return kube


def offline(folder: Path, found: Spec) -> str:
    """What `validate` says of an object."""
    file = folder / "objects.yaml"
    file.write_text("\n---\n".join(map(json.dumps, (found, *([WORKFLOW] if "approval" in str(found) else ())))))
    try:
        load(file)
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def judged(cluster: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Spec, str, str]]:
    """Each object with what the API server and what `validate` says against it."""
    folder = tmp_path_factory.mktemp("objects")
    return [
        (found, refusal(cluster, found), offline(folder, found))
        for kind, specs in CASES.items()
        for spec in specs
        for found in ({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "o"}, "spec": spec},)
    ]


def refusal(kube: KubeApi, found: Spec) -> str:
    try:
        kube.create(found, dry_run=True)
    except Rejected as error:
        return error.message
    return ""


def test_they_are_judged_alike(judged):
    different = [
        (found, refusal, told)
        for found, refusal, told in judged
        if bool(refusal) != bool(told) and not (told and any(re.search(each, told + str(found)) for each in UNKNOWABLE))
    ]
    assert different == []
    assert len(judged) > 600


def test_every_rule_has_refused_something(judged):
    """What CEL refuses is refused in its words by some value here, or by an object of tests/fixtures/objects."""
    said = "".join(refusal for _, refusal, _ in judged) + (FOLDER / "objects" / "api-server.txt").read_text()
    rules = set(messages(definitions()))
    assert len(rules) > 60
    assert {message for message in rules if message not in said} == set()


def messages(found: object) -> Iterator[str]:
    """Those of all rules in a schema."""
    if isinstance(found, dict):
        yield from (each["message"] for each in found.get("x-kubernetes-validations", ()))
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from messages(inner)


@pytest.mark.parametrize("spec", NULLS, ids=str)
def test_null_is_kept_and_told(cluster, tmp_path, spec):
    found = {"apiVersion": API_VERSION, "kind": "MCPPolicy", "metadata": {"name": "o"}, "spec": spec}
    for made in (cluster.create(found, dry_run=True), *cluster.apply([found], dry_run=True)):
        assert made["spec"] == {"mode": "enforce", **spec}
    assert offline(tmp_path, found) != ""
