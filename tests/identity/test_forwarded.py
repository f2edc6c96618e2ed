"""X-Forwarded-Client-Cert: from whom it counts, who the caller is, and what is no such header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.identity.forwarded import Forwarded, NotXfcc, parse
from openmcp.identity.peer import UNKNOWN, Peer
from openmcp.identity.principal import Principal
from tests.identity.asking import ask

ID = "spiffe://cluster.local/ns/support/sa/bot"
ISTIO = f'By=spiffe://cluster.local/ns/tools/sa/gateway;Hash=ab01;Subject="";URI={ID}'
CERTIFICATE = "-----BEGIN%20CERTIFICATE-----%0AMIIB%2B%3D%0A-----END%20CERTIFICATE-----%0A"
CALLER = Principal(ID, "forwarded")
PROXY = Peer("10.1.2.3")
METHOD = Forwarded(["10.1.0.0/16", "127.0.0.1/32", "fd00::/8"], ["cluster.local"])


def said(value: str, peer: Peer = PROXY, method: Forwarded = METHOD) -> object:
    return ask(method, {b"x-forwarded-client-cert": value.encode()}, peer)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(ISTIO, id="Istio"),
        pytest.param(f"URI={ID}", id="the URI alone"),
        pytest.param(f'uri="{ID}"', id="quoted, in small letters"),
        pytest.param(f'Hash=x;Cert="{CERTIFICATE}";Subject="CN=a,O=b;c";URI={ID};DNS=a.b;DNS=c.d', id="all of it"),
        pytest.param(f"URI=spiffe://cluster.local/other,{ISTIO}", id="behind another proxy's client"),
        pytest.param(f"URI=spiffe://cluster.local/other, {ISTIO}", id="the same with a space"),
        pytest.param(f'Subject="x,URI=spiffe://cluster.local/other";URI={ID}', id="a comma within quotes"),
        pytest.param(f'Subject="\\",URI=spiffe://cluster.local/other";URI={ID}', id="a quote within quotes"),
        pytest.param(f'Subject="\\\\";URI={ID}', id="a backslash before the last quote"),
        pytest.param(f"Subject=URI%3D;URI={ID}", id="something like a key"),
        pytest.param(f"By={ID};URI={ID}", id="the proxy itself"),
    ],
)
def test_the_client_of_the_nearest_proxy(value):
    assert said(value) == CALLER


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "forwarded"),
        (" ", "forwarded"),
        (",", "forwarded"),
        (ISTIO + ",", "forwarded"),
        (ISTIO + ";", "forwarded"),
        ("," + ISTIO, "forwarded"),
        (";" + ISTIO, "forwarded"),
        (ISTIO + ",,", "forwarded"),
        (f"garbage,{ISTIO}", "forwarded"),
        (f"{ISTIO},Hash=x", "forwarded"),
        (f"{ISTIO},By={ID}", "forwarded"),
        (f"{ISTIO},URI=", "forwarded"),
        (f"{ISTIO};URI={ID}", "forwarded"),
        (f"{ISTIO};uri=spiffe://cluster.local/other", "forwarded"),
        (f'Subject="x;URI={ID}', "forwarded"),
        (f'Subject="x"y;URI={ID}', "forwarded"),
        (f'Subject=x"y";URI={ID}', "forwarded"),
        (f'Subject="x\\;URI={ID}', "forwarded"),
        (f"Subject=a=b;URI={ID}", "forwarded"),
        (f"Subject=a=URI={ID}", "forwarded"),
        (f'Subject="x"yURI={ID}', "forwarded"),
        (f'Subject="x" URI={ID}', "forwarded"),
        (f"Subject;URI={ID}", "forwarded"),
        (f"=x;URI={ID}", "forwarded"),
        (f"U RI={ID}", "forwarded"),
        (f" URI={ID}", "forwarded"),
        (f"URI = {ID}", "forwarded"),
        (f"URI={ID} ", "forwarded"),
        (f"URI={ID}\t", "forwarded"),
        (f"URI={ID}?x", "forwarded"),
        (f"URI={ID}/", "forwarded"),
        ("URI=https://acme.example/", "forwarded"),
        ("URI=spiffe://cluster.local", "forwarded"),
        ("URI=spiffe://cluster.local/ä", "forwarded"),
        ('URI="spiffe://cluster.local/a\\/b"', "forwarded"),
        ("URI=spiffe%3A//cluster.local/a", "forwarded"),
        ("URI=spiffe://evil.example/a", "trust_domain"),
        (f"{ISTIO},URI=spiffe://evil.example/a", "trust_domain"),
        ("URI=spiffe://" + "a" * 3000, "forwarded"),
        ("By=x;" * 3000 + f"URI={ID};URI={ID}", "forwarded"),
    ],
)
def test_what_names_no_client_is_refused(value, reason):
    assert said(value) == reason


@pytest.mark.parametrize(
    ("address", "speaks"),
    [
        ("10.1.2.3", True),
        ("10.1.255.255", True),
        ("::ffff:10.1.2.3", True),
        ("::ffff:0a01:0203", True),
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("fd00::1", True),
        ("fd00::1%eth0", False),
        ("10.2.0.1", False),
        ("::ffff:10.2.0.1", False),
        ("127.0.0.2", False),
        ("::1", False),
        ("::10.1.2.3", False),
        ("fe80::1%10.1.2.3", False),
        ("010.1.2.3", False),
        ("10.1.2.3 ", False),
        ("10.1.2", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_the_header_counts_from_listed_peers_alone(address, speaks):
    assert METHOD.speaks(Peer(address)) is speaks
    for value, from_proxy in ((ISTIO, CALLER), ("garbage", "forwarded")):
        assert said(value, Peer(address)) == (from_proxy if speaks else None)


def test_without_the_header_a_proxy_says_nothing():
    assert ask(METHOD, {}, PROXY) is None
    assert ask(METHOD, {b"x-forwarded-client-cert": ISTIO.encode()}, UNKNOWN) is None
    assert METHOD.until({}, PROXY) == float("inf")


def test_without_trust_domains_a_proxy_may_speak_for_all():
    found = said("URI=spiffe://evil.example/a", method=Forwarded(["10.0.0.0/8"]))
    assert found == Principal("spiffe://evil.example/a", "forwarded")


def test_networks_are_well_formed():
    with pytest.raises(ValueError, match="host bits"):
        Forwarded(["10.1.2.3/16"])


@pytest.mark.parametrize("size", [100, 9000])
def test_what_is_remembered_is_what_was_said(size):
    """Headers beyond what is remembered are judged each time, and alike."""
    for name in ("a", "b", "a"):
        found = said(f'Cert="{"x" * size}";URI=spiffe://cluster.local/{name}')
        assert found == Principal(f"spiffe://cluster.local/{name}", "forwarded")


_KEY = st.sampled_from(["URI", "By", "Hash", "DNS", "Subject"])
_TEXT = st.text(alphabet='ab,;="\\ /:', max_size=8)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@given(st.lists(st.lists(st.tuples(_KEY, _TEXT), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_a_proxy_writes_is_read_back(elements):
    value = ",".join(";".join(f'{key}="{escaped(text)}"' for key, text in element) for element in elements)
    read = [[(key.lower().encode(), escaped(text).encode()) for key, text in element] for element in elements]
    assert parse(value.encode()) == read


@given(st.text(alphabet='URIby=";,\\ :/x', max_size=30).map(str.encode))
def test_nothing_breaks_the_reader(value):
    try:
        elements = parse(value)
    except NotXfcc:
        return
    assert elements
    assert all(elements)


@pytest.mark.parametrize("value", [b'a="' + b"\\" * 40_000, b"a=" + b"x" * 40_000 + b'"', b'a="x";' * 10_000])
def test_long_headers_take_no_time(value):
    with pytest.raises(NotXfcc):
        parse(value)
