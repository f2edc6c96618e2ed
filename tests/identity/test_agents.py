"""Who is calling: the first method that applies decides, and a wrong key never becomes `anonymous`."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.identity.agents import Anyone, ApiKeys, build
from openmcp.identity.principal import ANONYMOUS, Principal


def digest(key: bytes) -> str:
    return sha256(key).hexdigest()


KEYS = ApiKeys([("ci-bot", digest(b"k-1")), ("helpdesk", digest(b"k-2"))])
CI_BOT = Principal("key:ci-bot", "apiKey")
HELPDESK = Principal("key:helpdesk", "apiKey")


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({b"x-api-key": b"k-1"}, CI_BOT, id="own header"),
        pytest.param({b"authorization": b"Bearer k-2"}, HELPDESK, id="bearer"),
        pytest.param({b"authorization": b"bEARER   k-2 "}, HELPDESK, id="bearer, written oddly"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer k-1"}, CI_BOT, id="the same twice"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer k-2"}, None, id="two keys"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer x"}, None, id="a good and a bad one"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Basic azE6"}, CI_BOT, id="another scheme beside"),
        pytest.param({b"authorization": b"Basic k-1"}, None, id="another scheme"),
        pytest.param({b"authorization": b"k-1"}, None, id="no scheme"),
        pytest.param({b"authorization": b"Bearer"}, None, id="scheme alone"),
        pytest.param({b"authorization": b"Bearer k-1, Bearer k-1"}, None, id="a joined header"),
        pytest.param({b"x-api-key": b""}, None, id="empty"),
        pytest.param({b"x-api-key": b"K-1"}, None, id="case counts"),
        pytest.param({b"x-api-key": digest(b"k-1").encode()}, None, id="the digest is not the key"),
        pytest.param({b"X-API-KEY": b"k-1"}, None, id="names come in lower case"),
    ],
)
def test_api_keys(headers, principal):
    assert build([KEYS]).identify(headers) == principal


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Basic azE6"}])
def test_none_behind_keys_takes_those_who_present_no_key(headers):
    assert build([KEYS, Anyone()]).identify(headers) is ANONYMOUS


@pytest.mark.parametrize(
    "headers", [{b"x-api-key": b"wrong"}, {b"x-api-key": b""}, {b"authorization": b"Bearer wrong"}]
)
def test_a_wrong_key_does_not_become_anonymous(headers):
    assert build([KEYS, Anyone()]).identify(headers) is None


def test_the_order_is_that_of_the_configuration():
    assert build([Anyone(), KEYS]).identify({b"x-api-key": b"k-1"}) is ANONYMOUS


def test_without_a_method_nobody_is_identified():
    assert build([]).identify({b"x-api-key": b"k-1"}) is None


@given(key=st.binary(max_size=20))
def test_no_other_key_is_good(key):
    expected = {b"k-1": CI_BOT, b"k-2": HELPDESK}.get(key.strip())
    assert build([KEYS, Anyone()]).identify({b"x-api-key": key}) == expected
