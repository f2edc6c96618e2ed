"""What approvals need that outlives a snapshot: the store and its service, and the approver's side of this process."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from openmcp.config.model import Action, Configuration, DynamodbState
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.build.identities import Identities
from openmcp.sidecar.stages.desk import Desk
from openmcp.sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from openmcp.config.model import Approvals
    from openmcp.identity.source import SvidSource
    from openmcp.sidecar.approvals.side import ApproverSide
    from openmcp.sidecar.approvals.sweeping import Sweeping
    from openmcp.sidecar.approvals.values import Event

_log = logging.getLogger("openmcp.app")


class Approving:
    """The approvals of one process: nothing before a configuration asks for them. `on_event` hears of all that this
    process brings about; while `recording` is False nothing is decided here."""

    def __init__(self, identities: Identities, metrics: Metrics, on_event: "Callable[[Event], None]") -> None:
        self.desk = Desk()
        self.recording: Callable[[], bool] = lambda: True
        self._identities = identities
        self._metrics = metrics
        self._on_event = on_event
        self._side: ApproverSide | None = None
        self._sweeping: Sweeping | None = None
        self._changing: asyncio.Task[None] | None = None
        self._opened = False
        self._wanted = Configuration()

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
        self.desk.service = service = make_service(configuration.approvals, store, self._heard)
        service.recording = lambda: self.recording()
        self._sweeping = Sweeping(service)

    def follow(self, configuration: Configuration) -> None:
        """Go by this configuration from now on: who approves, who may log in, which channels are told."""
        if self.desk.service is None or self._sweeping is None:
            return
        from openmcp.sidecar.approvals.making import configure

        if not self._sweeping.running:
            self._sweeping.start()
        configure(self.desk.service, configuration.approvals)
        self._wanted = configuration
        if self._side is not None:
            self._changing = asyncio.get_running_loop().create_task(self._side.configure(configuration.approvals))
        elif self._opened and (self._changing is None or self._changing.done()):
            # The rules that ask somebody have come later than the listeners.
            self._changing = asyncio.get_running_loop().create_task(self._open_late())

    async def open(self, configuration: Configuration) -> None:
        """Open the console, if this process has one, and tell channels. Raises `OSError` and `BuildError`."""
        self._opened = True
        approvals = configuration.approvals
        if self.desk.service is None or not (approvals.console is not None or approvals.channels):
            return
        from openmcp.sidecar.approvals.console.settings import CannotServe

        try:
            side = self._made(approvals)
        except CannotServe as error:
            raise BuildError(f"approvals.console: {error}") from error
        await side.start()
        self._side = side
        if side.url:
            _log.info("approvers decide at %s", side.url)

    async def _open_late(self) -> None:
        try:
            await self.open(self._wanted)
            if self._side is not None:
                await self._side.configure(self._wanted.approvals)
        except (OSError, BuildError) as error:
            _log.error("the approver's side cannot be opened, so nobody is told of requests: %s", error)

    async def stop(self) -> None:
        """Close the approver's side and the store; uses that are owed are written down first."""
        if self._changing is not None:
            await asyncio.wait({self._changing})
        if self._side is not None:
            await self._side.stop()
        if self._sweeping is not None:
            await self._sweeping.stop()
        service = self.desk.service
        if service is not None:
            await service.close()
            await service.store.close()

    @property
    def console_url(self) -> str:
        """Where approvers find the console of this process; empty where there is none."""
        return self._side.url if self._side is not None else ""

    def channels(self) -> Mapping[str, str]:
        """What is wrong with each channel by its name, empty where nothing is."""
        return self._side.faults() if self._side is not None else {}

    def _made(self, approvals: "Approvals") -> "ApproverSide":
        from openmcp.sidecar.approvals.making import wall_clock
        from openmcp.sidecar.approvals.side import ApproverSide

        assert self.desk.service is not None
        metrics = self._metrics
        return ApproverSide(approvals, self.desk.service, wall_clock, metrics.approval_notice, metrics.approval_forged)

    def _heard(self, event: "Event") -> None:
        self._on_event(event)
        if self._side is not None:
            self._side.heed(event)

    def _spiffe_session(self, state: DynamodbState) -> Any:
        source = self._identities.source
        assert source is not None, "`prepare` has made it"
        return role_session(source, state)


def role_session(source: "SvidSource", state: DynamodbState) -> Any:
    """A session of botocore in the role that our SVID may take; to be made in the event loop of `source`."""
    from openmcp.identity.aws import session

    assert state.role_arn is not None
    return session(source, state.role_arn, state.region)


def needed(configuration: Configuration) -> bool:
    """Whether any rule in force asks for an approval, or somebody wants to see those of other sidecars."""
    return configuration.approvals.console is not None or any(
        rule.action is Action.REQUIRE_APPROVAL
        for policy in configuration.policies
        if policy.mode == "enforce"
        for rule in policy.requests
    )
