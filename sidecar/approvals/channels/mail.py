"""Requests by e-mail: what an agent asks for, as text and as HTML, and a link to the page where it is decided.

A mail never decides anything, and cannot be changed once it is sent. Each send is a connection of its own, in a thread.
"""

import asyncio
import logging
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from html import escape
from typing import Final

import msgspec

from openmcp.config.secrets import SecretError
from openmcp.sidecar.approvals.card import Card, card_of
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.mailtickets import Proof, Ticket, Tickets
from openmcp.sidecar.state.records import ApprovalRecord
from openmcp.sidecar.state.store import StoreUnavailable

_log = logging.getLogger("openmcp.approvals")

_PATIENCE: Final = 10.0
"""Seconds for each step of the talk with the mail server."""

_BY_MAIL: Final = "email:"
IMPLICIT_TLS: Final = 465
"""Where TLS begins at once (RFC 8314, 7.3)."""


class Call(msgspec.Struct, frozen=True):
    """Where a mail leads, and the code to type in there; empty where somebody logs in otherwise."""

    link: str
    code: str = ""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A mail server; secrets are asked for when they are needed. `ca` is PEM, None: the system's."""

    host: str
    port: int
    start_tls: bool = True
    login: Callable[[], tuple[str, str]] | None = None
    ca: Callable[[], bytes] | None = None


class Mail:
    """Mails from `sender` to some addresses. `link` makes a URL of a path of the console.

    With `tickets` each approver `email:ADDRESS` gets a mail of their own, by which they log in.
    """

    updates = False

    def __init__(
        self,
        name: str,
        addresses: tuple[str, tuple[str, ...]],
        server: Server,
        link: Callable[[str], str],
        tickets: Callable[[], Awaitable[Tickets]] | None = None,
    ) -> None:
        """`addresses` are the sender, and whom it writes to."""
        self.name = name
        self._sender, self._to = addresses
        self._server = server
        self._link = link
        self._tickets = tickets
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="approvals-mail")

    async def send(self, record: ApprovalRecord, now: int) -> str:
        """See `Channel`; the reference is the first Message-ID."""
        messages = await self.messages(record, now)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._deliver, messages)
        return str(messages[0]["Message-ID"])

    async def update(self, record: ApprovalRecord, reference: str, now: int) -> None:
        """A mail stays as it was sent; its page tells how the request stands."""

    async def close(self) -> None:
        """See `Channel`. A mail that is being sent has its time."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def messages(self, record: ApprovalRecord, now: int) -> list[EmailMessage]:
        """The mails for a request. May raise `ChannelFailed`."""
        card = card_of(record, now)
        own = await self._own(record) if self._tickets is not None else {}
        made = [self._message(card, (address,), now, ticket) for address, ticket in own.items()]
        others = tuple(address for address in self._to if address not in own)
        return ([self._message(card, others, now)] if others else []) + made

    async def _own(self, record: ApprovalRecord) -> dict[str, Ticket]:
        """The tickets of approvers who are known by their addresses."""
        named = (name for need in record.needs for name in need.approvers if name.startswith(_BY_MAIL))
        addresses = dict.fromkeys(name.removeprefix(_BY_MAIL) for name in named)
        if not addresses or self._tickets is None:
            return {}
        try:
            tickets = await self._tickets()
        except StoreUnavailable as error:
            raise ChannelFailed(f"no links can be made: {error}") from None
        return {one: tickets.issue(Proof(one, record.rid, record.pending_until)) for one in addresses}

    def _message(self, card: Card, to: tuple[str, ...], now: int, ticket: Ticket | None = None) -> EmailMessage:
        """One mail. Nothing that an agent writes gets into a header."""
        path = f"/requests/{card.rid}" if ticket is None else f"/login/mail?ticket={ticket.token}"
        call = Call(self._link(path), ticket.code if ticket is not None else "")
        message = EmailMessage(SMTP.clone(max_line_length=78))
        message["Subject"] = f"Approval wanted: {card.rid}"
        message["From"] = self._sender
        message["To"] = ", ".join(to)
        message["Date"] = formatdate(now / 1000, usegmt=True)
        message["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5
        message.set_content(text_of(card, call), cte="quoted-printable")
        message.add_alternative(html_of(card, call), subtype="html", cte="quoted-printable")
        return message

    def _deliver(self, messages: list[EmailMessage]) -> None:
        refused: set[str] = set()
        with _faults(self._server.host):
            server = self._connect()
            try:
                for message in messages:
                    refused |= set(server.send_message(message))
            finally:
                _part(server)
        if refused:  # the others have it: not sent again
            _log.warning("channel %s: the mail server takes no mail for %s", self.name, ", ".join(sorted(refused)))

    def _connect(self) -> smtplib.SMTP:
        """A connection that is encrypted and logged in, where these are wanted; else none at all."""
        to = self._server
        context = _context(to.ca() if to.ca is not None else None)
        if to.port == IMPLICIT_TLS:
            server: smtplib.SMTP = smtplib.SMTP_SSL(to.host, to.port, timeout=_PATIENCE, context=context)
        else:
            server = smtplib.SMTP(to.host, to.port, timeout=_PATIENCE)
        try:
            if to.port != IMPLICIT_TLS and to.start_tls:
                server.starttls(context=context)
            if to.login is not None:
                server.login(*to.login())
        except BaseException:
            server.close()
            raise
        return server


def _part(server: smtplib.SMTP) -> None:
    """Say goodbye; what a server says to that changes nothing."""
    with suppress(smtplib.SMTPException, OSError):
        server.quit()


@contextmanager
def _faults(host: str) -> Iterator[None]:
    """What goes wrong with a mail server, in our words: those of the server may name what was sent."""
    try:
        yield
    except SecretError as error:
        raise ChannelFailed(f"the mail server's secrets: {error}", lasting=True) from None
    except smtplib.SMTPResponseException as error:
        raise _answered(error) from None
    except smtplib.SMTPRecipientsRefused:
        raise ChannelFailed("the mail server takes no mail for these addresses", lasting=True) from None
    except smtplib.SMTPNotSupportedError as error:
        raise ChannelFailed(f"the mail server cannot do it: {error}", lasting=True) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise ChannelFailed(f"{host} does not answer: {_fault(error)}") from None


def _context(ca: bytes | None) -> ssl.SSLContext:
    if ca is None:
        return ssl.create_default_context()
    try:  # of an empty text it would trust the system
        return ssl.create_default_context(cadata=ca.decode("ascii") or "none")
    except (ssl.SSLError, ValueError):
        raise ChannelFailed("the mail server's CA is not a PEM certificate", lasting=True) from None


def _answered(error: smtplib.SMTPResponseException) -> ChannelFailed:
    """A server's refusal by its number: what it says may name what was sent."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return ChannelFailed("the mail server does not accept the user and password", lasting=True)
    return ChannelFailed(f"the mail server refuses with {error.smtp_code}", lasting=error.smtp_code >= 500)


def _fault(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if not isinstance(error, TimeoutError) else f"no answer in {_PATIENCE:g} s"


def text_of(card: Card, call: Call) -> str:
    """The mail as plain text."""
    code = (f"Your code: {call.code}", _OWN, "") if call.code else ()
    lines = [f"{card.agent} wants to use {card.subject} of {card.server}.", "", f"Decide here: {call.link}", "", *code]
    lines += [f"{label}:\n{text}" if "\n" in text else f"{label}: {text}" for label, text in _rows(card)]
    return "\n".join((*lines, "", _FOOT, ""))


def html_of(card: Card, call: Call) -> str:
    """The mail as HTML: no images, nothing from elsewhere, one link. One column, so that it fits a phone; styles are at
    the elements, since mail programs drop others."""
    rows = "".join(
        f'<p style="margin:0 0 10px"><span style="color:#57606a;font-size:13px">{escape(label)}</span><br>'
        f'<bdi style="white-space:pre-wrap">{escape(text)}</bdi></p>'
        for label, text in _rows(card)
    )
    code = f'<p>Your code: <b style="font-size:20px">{escape(call.code)}</b><br>{escape(_OWN)}</p>' if call.code else ""
    return (
        '<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width">'
        f"<title>Approval wanted</title></head><body style={_BODY}><main>"
        f'<h1 style="font-size:17px;line-height:1.4;margin:0 0 16px"><bdi>{escape(card.agent)}</bdi> wants to use '
        f"<bdi>{escape(card.subject)}</bdi> of <bdi>{escape(card.server)}</bdi>.</h1>"
        f'<p><a style={_BUTTON} href="{escape(call.link)}">Look at it and decide</a></p>{code}{rows}'
        f'<p style="color:#57606a">{escape(_FOOT)}</p></main></body></html>\n'
    )


_BODY: Final = (
    '"margin:0 auto;padding:16px;max-width:600px;font:15px/1.5 sans-serif;color:#1b1f24;background:#ffffff;'
    'overflow-wrap:anywhere"'
)
_BUTTON: Final = (
    '"display:inline-block;padding:10px 18px;border-radius:8px;background:#0b5bd3;color:#ffffff;text-decoration:none"'
)
_OWN: Final = "It is for you alone: whoever has this mail can decide in your name."
_FOOT: Final = "Nothing happens by opening the link: the decision is made on the page, by who is logged in there."


def _rows(card: Card) -> list[tuple[str, str]]:
    shown = [(value.label, value.told) for value in card.shown]
    rows = [("Request", card.rid), ("Known by", card.proof), *shown, ("Arguments SHA-256", card.digest)]
    rows += [("Rule", f"{one.rule} ({one.workflow}, {one.required} of its approvers)") for one in card.wanted]
    rows += [("Why", text) for text in card.why]
    rows += [("The agent says (not verified)", card.reason)] if card.reason else []
    rows += [("An approval covers", card.granted.sentence), ("Waits until", card.ends), ("Asked", card.asked_text)]
    return rows + ([("Note", "Not all of it is shown here: the page shows the whole.")] if card.page_only else [])
