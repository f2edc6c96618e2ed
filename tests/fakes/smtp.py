"""A real mail server on loopback (aiosmtpd): STARTTLS or TLS at once, logins, and faults that tests ask for."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

AUTHORITY = trustme.CA()
USER, PASSWORD = "openmcp", "correct horse"


class Inbox:
    """What was delivered; `refuse` is what the server says to the message instead, `unknown` whom it does not know."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.encrypted: list[bool] = []
        self.refuse: str | None = None
        self.unknown: set[str] = set()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuse is not None:
            return self.refuse
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(envelope.rcpt_tos)
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"


def _accepts(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=False)


@contextmanager
def mail_server(
    *, names: tuple[str, ...] = ("localhost",), tls: str = "starttls", login: bool = True
) -> Iterator[Inbox]:
    """A server on a free port; `tls` is `starttls`, `implicit` or `none`."""
    inbox = Inbox()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    options: dict[str, Any] = {"hostname": "127.0.0.1", "port": 0, "auth_require_tls": tls == "starttls"}
    options["ready_timeout"] = 60.0  # this machine may stall for as long as the library waits
    options |= {"authenticator": _accepts, "auth_required": True} if login else {}
    if tls == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    elif tls == "implicit":
        options |= {"ssl_context": context}
    controller = _Free(inbox, **options)
    controller.start()
    try:
        inbox.port = controller.bound
        yield inbox
    finally:
        controller.stop()


class _Free(Controller):
    """On a port that the system chooses."""

    @property
    def bound(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    def _trigger_server(self) -> None:
        self.port = self.bound
        super()._trigger_server()
