"""A link and a code in a mail prove who has read it: for one request, for its time, and nothing else."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.approvals.mailtickets import BadTicket, Proof, Ticket, Tickets, tickets_of

TICKETS = Tickets(b"k" * 32)
PROOF = Proof("lead@acme.example", "apr_x", 1000)


def test_both_together_prove_an_address() -> None:
    ticket = TICKETS.issue(PROOF)
    assert re.fullmatch("[A-Za-z0-9_.-]+", ticket.token)
    assert re.fullmatch("[0-9]{8}", ticket.code)
    assert TICKETS.is_ours(ticket.token)
    assert TICKETS.check(ticket.token, f" {ticket.code[:4]} {ticket.code[4:]}\n", 999) == PROOF


def forged(ticket: Ticket, address: str) -> str:
    body, mac = ticket.token.split(".")
    changed = base64.urlsafe_b64decode(body + "==").replace(b"lead@acme.example", address.encode())
    return f"{base64.urlsafe_b64encode(changed).decode().rstrip('=')}.{mac}"


def test_nothing_less_does() -> None:
    ticket = TICKETS.issue(PROOF)
    other = TICKETS.issue(Proof("lead@acme.example", "apr_y", 1000))
    elsewhere = Tickets(b"l" * 32).issue(PROOF)
    body, mac = ticket.token.split(".")
    assert len({ticket.code, other.code, elsewhere.code}) == 3
    for token, code, now in (
        (ticket.token, "", 0),
        (ticket.token, other.code, 0),
        (ticket.token, f"{ticket.code}0", 0),
        (ticket.token, "é", 0),
        (ticket.token, ticket.code, 1000),
        (elsewhere.token, elsewhere.code, 0),
        (forged(ticket, "boss@acme.example"), ticket.code, 0),
        (f"{body}.", ticket.code, 0),
        (f"{body}.{mac}.", ticket.code, 0),
        (body, ticket.code, 0),
        (f"{mac}.{body}", ticket.code, 0),
    ):
        with pytest.raises(BadTicket):
            TICKETS.check(token, code, now)


@given(st.text(max_size=40) | st.text("abcABC012.-_=", max_size=40))
def test_any_text_is_refused(text: str) -> None:
    assert not TICKETS.is_ours(text)
    with pytest.raises(BadTicket):
        TICKETS.check(text, "00000000", 0)


async def test_all_processes_on_one_state_agree() -> None:
    async def key() -> bytes:
        return b"s" * 32

    ticket = (await tickets_of(key)()).issue(PROOF)
    assert (await tickets_of(key)()).check(ticket.token, ticket.code, 0) == PROOF
    assert not Tickets(b"s" * 32).is_ours(ticket.token), "the key has a use of its own"
