"""`openmcp plan`: what of a configuration Envoy Gateway can do, as documents for Kubernetes; pure."""

from typing import Final

from openmcp.config.model import Configuration, Server
from openmcp.config.plan.access import warn_of_rules
from openmcp.config.plan.backends import upstream
from openmcp.config.plan.behind import behind
from openmcp.config.plan.callers import doors, warn_of_methods
from openmcp.config.plan.elsewhere import need_of_source, warn_of_sections
from openmcp.config.plan.gateway import gateway, warn_of_hosts, warn_of_server
from openmcp.config.plan.mcproutes import mcp_routes
from openmcp.config.plan.routes import named, routes
from openmcp.config.plan.traffic import backend_traffic
from openmcp.config.plan.values import (
    CannotPlan,
    Document,
    Notice,
    Notices,
    Plan,
    Service,
    Target,
    check_names,
    is_label,
    service,
)

__all__ = ["CannotPlan", "Document", "Notice", "Plan", "Service", "Target", "is_label", "plan", "service"]


_LONGEST_PATH: Final = 960
"""Characters, with room for what stands before it at `/.well-known`; a route takes 1024."""


def plan(configuration: Configuration, target: Target) -> Plan:
    """The documents in the order in which they may be applied; the same for the same configuration.

    Raises `CannotPlan` where there is no plan that is as strict as what the configuration says.
    """
    for server in configuration.servers:
        if len(server.path) > _LONGEST_PATH:
            raise CannotPlan(f"servers: {server.name}: path: Gateway API takes {_LONGEST_PATH} characters")
    notices = Notices()
    need_of_source(configuration, notices)
    documents = gateway(configuration, target, notices)
    if target.sidecar is not None:
        documents += behind(configuration, target.sidecar, target, notices)
    else:
        notices.need("Envoy Gateway", "`extensionApis.enableBackend: true` in its configuration")
        warn_of_methods(configuration, notices)
        warn_of_hosts(configuration, target, notices)
        warn_of_sections(configuration, notices)
        for server in configuration.servers:
            documents += _server(configuration, server, target, notices)
    check_names(documents)
    return Plan(tuple(documents), tuple(notices.warnings), tuple(notices.needs))


def _server(configuration: Configuration, server: Server, target: Target, notices: Notices) -> list[Document]:
    up = upstream(server, target, notices)
    if up is None:
        return []
    warn_of_server(server, notices)
    if target.ai_gateway:
        return mcp_routes(configuration, server, up, (target, notices))
    ways = named(server, doors(configuration, server, target, notices))
    warn_of_rules(configuration, server, notices)
    if not ways:
        return []
    made = routes(configuration, server, up, ways, (target, notices))
    return [*up.documents, *made, backend_traffic(server, ways, target, notices)]
