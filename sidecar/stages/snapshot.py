"""One configuration, compiled."""

from collections.abc import Mapping

import msgspec

from openmcp.config.model import Configuration, Server
from openmcp.identity.agents import Identifier
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.policy.engine import PolicySet


class Route(msgspec.Struct, frozen=True):
    """A server as requests find it."""

    server: Server
    upstream: Upstream


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
