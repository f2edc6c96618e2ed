"""From `approvals.channels` of the configuration to what tells approvers, and listens to them."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from openmcp.config import secrets
from openmcp.config.model import Approvals, EmailChannel, Secret, SlackChannel, Smtp
from openmcp.sidecar.approvals.channels.channel import Channel
from openmcp.sidecar.approvals.channels.mail import Mail, Server
from openmcp.sidecar.approvals.channels.notifier import Notifier
from openmcp.sidecar.approvals.channels.slack import Slack
from openmcp.sidecar.approvals.channels.slackapi import SlackApi
from openmcp.sidecar.approvals.channels.slackhttp import PATH, SlackEndpoint
from openmcp.sidecar.approvals.channels.slacksocket import SlackSocket
from openmcp.sidecar.approvals.console.settings import Incoming, Outgoing
from openmcp.sidecar.approvals.mailtickets import tickets_of
from openmcp.sidecar.approvals.making import known_by_mail
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event

__all__ = ["PATH", "Outlets"]


class _Set(msgspec.Struct, frozen=True, eq=False):
    """What one configuration asks for."""

    approvals: Approvals
    notifier: Notifier
    endpoint: SlackEndpoint
    sockets: tuple[SlackSocket, ...]


class Outlets:
    """All channels of a configuration, which may change. Secrets are read when they are used, in the way of the moment.

    `page` tells where the console is found (an origin, empty for none). `on_result` is told of each attempt to tell a
    channel: its name, and `sent`, `updated` or `failed`; `on_refused` of each request to the endpoint that is not
    Slack's.
    """

    def __init__(
        self,
        service: ApprovalService,
        clock: Callable[[], int],
        page: Callable[[], str],
        on_result: Callable[[str, str], None] = lambda channel, result: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = service
        self._clock = clock
        self._page = page
        self._on_result = on_result
        self._on_refused = on_refused
        self._now: _Set | None = None
        self._changing = asyncio.Lock()

    async def configure(self, approvals: Approvals) -> None:
        """Tell and listen as this configuration says, from now on. What did not change stays as it is. Of two that are
        taken over at once the later one is what holds."""
        async with self._changing:
            before = self._now
            if before is not None and _relevant(before.approvals) == _relevant(approvals):
                return
            await self._end()
            if approvals.channels:
                self._now = self._made(approvals)
                self._now.notifier.start()
                for socket in self._now.sockets:
                    socket.start()

    async def stop(self) -> None:
        """End all of it."""
        async with self._changing:
            await self._end()

    async def _end(self) -> None:
        before, self._now = self._now, None
        if before is not None:
            for socket in before.sockets:
                await socket.stop()
            await before.notifier.stop()

    def heed(self, event: Event) -> None:
        """Take up what has happened in this process."""
        if self._now is not None:
            self._now.notifier.heed(event)

    async def slack(self, request: Incoming) -> Outgoing:
        """What Slack posts to `PATH`."""
        return await self._now.endpoint(request) if self._now is not None else Outgoing(404)

    def notes(self) -> tuple[str, ...]:
        """A line for each channel that does not work."""
        if self._now is None:
            return ()
        sockets = (f"{one.name}: buttons do not work: {one.fault}" for one in self._now.sockets if one.fault)
        endpoint = (f"Slack's buttons do not work: {self._now.endpoint.fault}",) if self._now.endpoint.fault else ()
        return (*self._now.notifier.notes(), *sockets, *endpoint)

    def faults(self) -> Mapping[str, str]:
        """What is wrong with each channel by its name, empty where nothing is."""
        if self._now is None:
            return {}
        found = {health.channel: health.fault for health in self._now.notifier.report()}
        for socket in self._now.sockets:
            found[socket.name] = found[socket.name] or socket.fault
        return found

    def _made(self, approvals: Approvals) -> _Set:
        channels: list[Channel] = []
        endpoints: list[tuple[Slack, Callable[[], str]]] = []
        sockets: list[SlackSocket] = []
        for settings in approvals.channels:
            if isinstance(settings, EmailChannel):
                channels.append(self._mail(settings, known_by_mail(approvals)))
                continue
            slack = self._slack(settings)
            channels.append(slack)
            if settings.signing_secret is not None:
                endpoints.append((slack, partial(_text, settings.signing_secret)))
            if settings.app_token is not None:
                sockets.append(SlackSocket(slack, SlackApi(settings.api_url, partial(_text, settings.app_token))))
        notifier = Notifier(
            self._service,
            channels,
            {workflow.name: workflow.channels for workflow in approvals.workflows},
            self._clock,
            per_hour=approvals.notifications_per_hour,
            on_result=self._on_result,
        )
        return _Set(approvals, notifier, SlackEndpoint(endpoints, self._clock, self._on_refused), tuple(sockets))

    def _slack(self, settings: SlackChannel) -> Slack:
        api = SlackApi(settings.api_url, partial(_text, settings.token))
        return Slack((settings.name, settings.channel), api, self._service, self._clock, self._link)

    def _mail(self, settings: EmailChannel, own: bool) -> Mail:
        tickets = tickets_of(self._service.store.hmac_key) if own else None
        addresses = (settings.sender, settings.to)
        return Mail(settings.name, addresses, _server(settings.smtp), lambda path: f"{self._page()}{path}", tickets)

    def _link(self, rid: str) -> str:
        console = self._page()
        return f"{console}/requests/{rid}" if console else ""


def _relevant(approvals: Approvals) -> object:
    told = tuple((workflow.name, workflow.channels) for workflow in approvals.workflows)
    return approvals.channels, told, approvals.notifications_per_hour, approvals.oidc is None


def _server(smtp: Smtp) -> Server:
    user, password = smtp.user, smtp.password
    return Server(
        host=smtp.host,
        port=smtp.port,
        start_tls=smtp.start_tls,
        login=(lambda: (user, _text(password))) if user is not None and password is not None else None,
        ca=partial(secrets.read, smtp.ca) if smtp.ca is not None else None,
    )


def _text(secret: Secret) -> str:
    """A secret as text. Raises `SecretError`."""
    try:
        return secrets.read(secret).decode()
    except UnicodeDecodeError:
        raise secrets.SecretError(f"{secrets.name(secret)} is no text") from None
