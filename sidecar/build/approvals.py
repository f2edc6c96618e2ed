"""What approvals need that outlives a snapshot: the store and its service, the console beside the sidecar."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openmcp.config.model import Action, Configuration, DynamodbState
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.build.identities import Identities
from openmcp.sidecar.stages.desk import Desk

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.console.server import Console
    from openmcp.sidecar.approvals.sweeping import Sweeping
    from openmcp.sidecar.approvals.values import Event

_log = logging.getLogger("openmcp.app")


class Approving:
    """The approvals of one process: nothing before a configuration asks for them. `on_event` hears of all that this
    process brings about."""

    def __init__(self, identities: Identities, on_event: "Callable[[Event], None]") -> None:
        self.desk = Desk()
        self._identities = identities
        self._on_event = on_event
        self._console: Console | None = None
        self._sweeping: Sweeping | None = None

    def prepare(self, configuration: Configuration) -> None:
        """Make what this configuration needs and what is not there yet. Raises `BuildError`, and then nothing has
        changed."""
        if self.desk.service is not None or not needed(configuration):
            return
        # Imported here: a sidecar whose rules ask nobody has none of it in memory.
        from openmcp.sidecar.approvals.making import make_service
        from openmcp.sidecar.approvals.sweeping import Sweeping
        from openmcp.sidecar.state.opening import CannotOpen, open_store

        try:
            store = open_store(configuration.state, self._spiffe_session)
        except CannotOpen as error:
            raise BuildError(str(error)) from error
        self.desk.kind = str(configuration.state.__struct_config__.tag)
        self.desk.service = service = make_service(configuration.approvals, store, self._on_event)
        self._sweeping = Sweeping(service)

    def follow(self, configuration: Configuration) -> None:
        """Go by this configuration from now on: who approves, and who may log in."""
        if self.desk.service is None or self._sweeping is None:
            return
        from openmcp.sidecar.approvals.making import configure

        if not self._sweeping.running:
            self._sweeping.start()
        configure(self.desk.service, configuration.approvals)
        if self._console is not None:
            from openmcp.sidecar.approvals.console import making

            self._console.configure(making.settings(configuration.approvals))

    async def stop(self) -> None:
        """Close the console and the store; uses that are owed are written down first."""
        if self._console is not None:
            await self._console.stop()
        if self._sweeping is not None:
            await self._sweeping.stop()
        service = self.desk.service
        if service is not None:
            await service.close()
            await service.store.close()

    @property
    def console_url(self) -> str:
        """Where approvers find the console of this process; empty where there is none."""
        return self._console.url if self._console is not None else ""

    async def open_console(self, configuration: Configuration) -> None:
        """Open the console, if this process has one. Raises `OSError` and `BuildError`."""
        approvals, service = configuration.approvals, self.desk.service
        if approvals.console is None or service is None:
            return
        from openmcp.sidecar.approvals.console import making
        from openmcp.sidecar.approvals.console.server import Console
        from openmcp.sidecar.approvals.console.settings import CannotServe
        from openmcp.sidecar.approvals.making import wall_clock

        try:
            console = Console(service, making.settings(approvals), wall_clock)
        except CannotServe as error:
            raise BuildError(f"approvals.console: {error}") from error
        await console.start(approvals.console.listen.host, approvals.console.listen.port)
        self._console = console
        _log.info("approvers decide at %s", console.url)

    def _spiffe_session(self, state: DynamodbState) -> Any:
        """What makes clients of DynamoDB in a role that our SVID may take."""
        from openmcp.identity.aws import session

        source = self._identities.source
        assert source is not None, "`prepare` has made it"
        assert state.role_arn is not None
        return _Clients(session(source, state.role_arn, state.region))


class _Clients:
    """A botocore session in the place of one of boto3."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def client(self, service: str, **settings: Any) -> Any:
        return self._session.create_client(service, **settings)


def needed(configuration: Configuration) -> bool:
    """Whether any rule in force asks for an approval, or somebody wants to see those of other sidecars."""
    return configuration.approvals.console is not None or any(
        rule.action is Action.REQUIRE_APPROVAL
        for policy in configuration.policies
        if policy.mode == "enforce"
        for rule in policy.requests
    )
