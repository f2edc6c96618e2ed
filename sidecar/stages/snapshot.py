"""One configuration, compiled."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from openmcp.config.model import Configuration, Server
from openmcp.identity.agents import Identifier
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.policy.engine import PolicySet

if TYPE_CHECKING:
    from openmcp.sidecar.stages.limits import Limits

if TYPE_CHECKING:
    from openmcp.sidecar.stages.translation.translator import Translator


class Route(msgspec.Struct, frozen=True):
    """A server as requests find it; `limits` are there where it has some, `translator` where it is to serve the
    agents of both eras."""

    server: Server
    upstream: Upstream
    limits: "Limits | None" = None
    translator: "Translator | None" = None


class Snapshot(msgspec.Struct, frozen=True):
    """One configuration, compiled: swapped as a whole on reload; an exchange keeps the one it began with.

    `closed` says why nothing may pass; empty where it may. The policies of a closed one allow nothing."""

    configuration: Configuration
    routes: Mapping[str, Route]
    policies: PolicySet
    inspectors: Inspectors
    identifier: Identifier
    hosts: frozenset[str]
    origins: frozenset[str]
    closed: str = ""
