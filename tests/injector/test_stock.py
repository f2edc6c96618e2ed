"""From one certificate to the next: whatever happens when, somebody who follows it is always trusted."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp.injector.authority import facts, serves
from openmcp.injector.stock import SETTLE, Stock, advance, authorities, bundle, decoded, encoded

NAMES = frozenset({"openmcp-injector.mesh.svc"})
DAY = 86400.0
LIFETIME = 90 * DAY
NOW = 1_800_000_000.0


def step(stock, now=NOW, *, trusted=True, names=NAMES, lifetime=LIFETIME):
    return advance(stock, names, now, lifetime, trusted=trusted)


def plain(value):
    return base64.b64encode(value).decode()


@pytest.fixture(scope="module")
def first():
    return step(Stock())


@pytest.fixture(scope="module")
def due():
    """When the first one has a third of its time left."""
    return NOW + LIFETIME * 2 / 3


def test_nothing_becomes_a_certificate(first):
    assert serves(first.current, NAMES, NOW)
    assert (first.next, first.published, first.previous) == (None, None, ())
    assert bundle(first) == first.current.ca


def test_nothing_happens_for_two_thirds_of_its_time(first, due):
    assert step(first, due - 1) == first


def test_a_successor_serves_only_after_its_ca_has_been_trusted_for_a_while(first, due):
    made = step(first, due)
    assert made.current == first.current
    assert made.next is not None
    assert bundle(made) == first.current.ca + made.next.ca
    assert step(made, due + DAY, trusted=False) == made
    seen = step(made, due + 1)
    assert seen.published == due + 1
    assert step(seen, due + SETTLE) == seen
    assert step(seen, due + DAY, trusted=False) == seen  # somebody wrote the caBundle over
    over = step(seen, due + 1 + SETTLE)
    assert (over.current, over.next, over.published) == (made.next, None, None)
    assert over.previous == (first.current.ca,)
    assert bundle(over) == made.next.ca + first.current.ca


def test_a_former_ca_is_trusted_until_its_certificate_has_ended(first, due):
    stock = step(step(step(first, due), due), due + SETTLE)
    ends = facts(first.current.certificate).ends
    assert step(stock, ends - 1) == stock
    assert step(stock, ends).previous == ()


def test_a_certificate_that_ended_while_nobody_was_there_is_replaced_at_once(first):
    later = NOW + 2 * LIFETIME
    made = step(first, later, trusted=False)
    assert serves(made.current, NAMES, later)
    assert made.next is None


def test_the_waiting_successor_is_taken_where_the_present_one_has_ended(first, due):
    made = step(first, due)
    ended = facts(first.current.certificate).ends
    assert step(made, ended).current == made.next


def test_other_names_want_another_certificate_with_an_overlap_where_one_is_still_called(first):
    both = NAMES | {"10.0.0.1"}
    made = step(first, names=both)
    assert (made.current, facts(made.next.certificate).names) == (first.current, both)


def test_where_no_name_is_left_there_is_nothing_to_overlap_with(first):
    made = step(first, names=frozenset({"renamed.mesh.svc"}))
    assert facts(made.current.certificate).names == {"renamed.mesh.svc"}
    assert made.previous == (first.current.ca,)


def test_a_shorter_lifetime_is_heeded(first):
    made = step(first, lifetime=DAY)
    assert facts(made.next.certificate).ends == NOW + DAY
    assert step(made.next and Stock(made.next), lifetime=DAY) == Stock(made.next)


def test_a_successor_that_cannot_serve_is_made_anew(first, due):
    made = step(first, due)
    broken = Stock(first.current, type(made.next)(made.next.ca, made.next.certificate, first.current.key))
    again = step(broken, due)
    assert again.next not in (None, broken.next)
    assert serves(again.next, NAMES, due)


def test_clocks_of_two_writers_may_differ(first, due):
    seen = step(step(first, due), due + 3600)  # published by a clock that is ahead
    assert step(seen, due + 60).current == seen.next


def test_it_is_kept_in_a_secret(first, due):
    whole = step(step(step(step(step(first, due), due), due + SETTLE), due + SETTLE + LIFETIME * 2 / 3), due + LIFETIME)
    whole = Stock(whole.current, whole.next or first.current, 17.0, (first.current.ca, whole.current.ca))
    data = encoded(whole)
    assert decoded(data) == whole
    assert decoded({"tls.crt": data["tls.crt"]}) == Stock()
    assert encoded(Stock(first.current))["next-tls.key"] is None


@pytest.mark.parametrize(
    "data",
    [
        {"tls.crt": "%%%", "tls.key": 5, "ca.crt": None},
        {"previous-ca.crt": plain(b"\xff"), "next-published": plain(b"soon")},
        {"previous-ca.crt": plain(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
    ],
)
def test_what_cannot_be_read_is_not_there(data):
    assert decoded(data) == Stock()


def test_a_secret_full_of_rubbish_is_replaced():
    data = {key: plain(b"rubbish") for key in ("tls.crt", "tls.key", "ca.crt")}
    made = step(decoded(data), trusted=False)
    assert serves(made.current, NAMES, NOW)
    assert made.previous == ()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(1, 40 * DAY), st.booleans(), st.booleans()), min_size=5, max_size=25))
def test_a_replica_that_follows_late_is_always_trusted(events):
    """Time passes; the writer comes by or not; it reaches the configuration or not. A replica serves by what it has
    read at any former time, for as long as that has not ended."""
    now, stock, published, held = NOW, Stock(), b"", []
    for seconds, comes, reaches in events:
        now += seconds
        if comes:
            agreed = authorities(published) == authorities(bundle(stock))
            if reaches and not agreed and stock.current is not None:
                published = bundle(stock)
            made = step(stock, now, trusted=agreed)
            if made.current != stock.current and stock.current is not None and serves(stock.current, NAMES, now):
                assert made.current.ca in published, "it serves before it is trusted"
            stock = made
        if stock.current is not None and stock.current.ca in published:
            held.append(stock.current)
        for one in held:
            if serves(one, NAMES, now):
                assert one.ca in published, "a certificate that has not ended is not trusted any more"
