"""The whole of one configuration, and `sessions`."""

import msgspec

from openmcp.config.model.approvals import Approvals
from openmcp.config.model.basics import Secret
from openmcp.config.model.identity import Identity
from openmcp.config.model.listen import Listen
from openmcp.config.model.origin import FileOrigin, Origin
from openmcp.config.model.policies import Policy
from openmcp.config.model.servers import Server
from openmcp.config.model.state import MemoryState, State
from openmcp.config.model.telemetry import Telemetry


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sealing of session ids: the key (32 bytes, base64; absent: made at start) and how long one lives."""

    key: Secret | None = None
    lifetime: float = 86400.0


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of one configuration."""

    listen: Listen = Listen()
    identity: Identity = Identity()
    servers: tuple[Server, ...] = ()
    policies: tuple[Policy, ...] = ()
    approvals: Approvals = Approvals()
    sessions: Sessions = Sessions()
    state: State = MemoryState()
    telemetry: Telemetry = Telemetry()
    source: Origin = FileOrigin()
