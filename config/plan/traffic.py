"""How calls go to a server: time-outs, what may be sent again, circuit breaking, balance and rate limits."""

from typing import Final

from openmcp.config.model import Limits, RateLimit, Retries, Server, Timeouts
from openmcp.config.plan.callers import Door
from openmcp.config.plan.values import (
    ENVOY,
    Document,
    Notices,
    Target,
    document,
    duration,
    quantity,
    reference,
)

SAFE: Final = ("connect-failure", "refused-stream", "reset-before-request")
"""When nothing was served yet. What Envoy Gateway retries by default (503 and more) would run a tool twice."""
_UNITS: Final = {1: "Second", 60: "Minute", 3600: "Hour", 86400: "Day", 604800: "Week", 31_536_000: "Year"}
_CONNECTIONS: Final = 1024
"""That Envoy takes where nothing is said."""
_LOCAL_RULES: Final = 16
_EVERYBODY: Final = {"clientSelectors": [{"path": {"type": "PathPrefix", "value": "/"}}]}
_MOST_REQUESTS: Final = 2**32 - 1


def backend_traffic(server: Server, routes: dict[str, Door], target: Target, notices: Notices) -> Document:
    """The BackendTrafficPolicy for the routes of a server."""
    _warn(server, notices)
    if len(routes) > 1 and server.limits.in_flight != Limits().in_flight:
        notices.warn(
            f"servers: {server.name}: limits.inFlight",
            "each Envoy, and each way to prove who one is, counts for itself",
        )
    limits = _rate_limits(server, list(routes.values()), notices)
    retries = server.retries or Retries(attempts=1)
    spec = {
        "targetRefs": [reference("HTTPRoute", route) for route in routes],
        "timeout": {
            "tcp": {"connectTimeout": duration(server.timeouts.connect)},
            "http": {
                "requestTimeout": "0s",
                "streamIdleTimeout": duration(server.timeouts.idle),
                "maxStreamDuration": duration(server.timeouts.stream),
            },
        },
        "retry": {
            "numRetries": retries.attempts,
            "retryOn": {"triggers": list(SAFE)},
            "perRetry": {"backOff": {"baseInterval": duration(max(retries.backoff, 0.001))}},
        },
        "circuitBreaker": {
            "maxConnections": max(server.limits.in_flight, _CONNECTIONS),  # each request has one, over HTTP/1.1
            "maxParallelRequests": server.limits.in_flight,
            "retryBudget": {"percent": {"numerator": round(retries.budget * 1000), "denominator": 1000}},
        },
        "requestBuffer": {"limit": quantity(server.limits.request_bytes)},
        "healthCheck": _health(server),
        **_balance(server, notices),
        **({"rateLimit": limits} if limits else {}),
    }
    return document(ENVOY, "BackendTrafficPolicy", next(iter(routes)), target.namespace, spec)


def _warn(server: Server, notices: Notices) -> None:
    place = f"servers: {server.name}"
    if server.retries is not None and server.retries.tools:
        notices.warn(f"{place}: retries.tools", "Envoy sees no tools: nothing is sent again once it was sent")
    if server.timeouts.tools:
        notices.warn(f"{place}: timeouts.tools", "Envoy sees no tools: their times are not held")
    if server.timeouts.request != Timeouts().request:
        notices.warn(
            f"{place}: timeouts.request",
            f"Envoy has no limit for the head of an answer: {duration(server.timeouts.idle)} (idle) holds there",
        )
    if server.limits.response_bytes != Limits().response_bytes:
        notices.warn(f"{place}: limits.responseBytes", "answers are not limited by Envoy")
    if server.pin_tools is not None:
        notices.warn(f"{place}: pinTools", "Envoy sees no tools: one that changed is not withheld")


def _health(server: Server) -> Document:
    """Whether somebody listens: a GET would open a stream at some servers, which Envoy waits for the end of."""
    health: dict[str, object] = {
        "active": {
            "type": "TCP",
            "tcp": {},
            "interval": duration(server.health.interval),
            "timeout": duration(server.health.timeout),
            "unhealthyThreshold": server.health.unhealthy_after,
        }
    }
    if (outliers := server.outliers) is not None:
        health["passive"] = {
            "splitExternalLocalOriginErrors": True,
            "consecutiveLocalOriginFailures": outliers.failures,
            "consecutiveGatewayErrors": outliers.failures,
            "consecutive5XxErrors": 0,  # a server that says 500 to a call is not gone
            "baseEjectionTime": duration(outliers.eject_for),
            "maxEjectionPercent": round(outliers.max_ejected * 100),
        }
    return health


def _balance(server: Server, notices: Notices) -> Document:
    if len(server.endpoints) == 1:
        return {}
    notices.warn(
        f"servers: {server.name}: endpoints",
        "Envoy sends the calls of one session to one endpoint, not always to the one that opened the session: "
        "servers that keep sessions in memory need one endpoint, or the sidecar (--sidecar), which knows the endpoint",
    )
    return {
        "loadBalancer": {
            "type": "ConsistentHash",
            "consistentHash": {"type": "Headers", "headers": [{"name": "Mcp-Session-Id"}]},
        }
    }


def _rate_limits(server: Server, doors: list[Door], notices: Notices) -> Document | None:
    """Envoy Gateway has one kind of limit in a policy: shared ones where one is shared."""
    rules = _held(server, doors, notices)
    if not rules:
        return None
    place = f"servers: {server.name}: rateLimit"
    if any(limit.shared for limit in server.rate_limit):
        notices.need(
            "Envoy Gateway",
            f"`rateLimit.backend` with a Redis, for {place}, which is shared; while that is away nothing is counted, "
            "or, with `rateLimit.failClosed: true`, nothing is let through",
        )
        # without `shared`, each route, so each way to prove who one is, has a count of its own
        return {"type": "Global", "global": {"rules": [{**rule, "shared": True} for rule in rules]}}
    notices.warn(
        place, "each Envoy, and each way to prove who one is, counts for itself; `shared: true` counts for all"
    )
    if len(rules) > _LOCAL_RULES:
        notices.warn(place, f"Envoy Gateway takes {_LOCAL_RULES} limits that are not shared: the others are not held")
    if len(rules) > 1:  # a rule about nobody is held for those alone whom no other rule is about, and there may be one
        rules = [{**_EVERYBODY, **rule} for rule in rules]
    return {"type": "Local", "local": {"rules": rules[:_LOCAL_RULES]}}


def _held(server: Server, doors: list[Door], notices: Notices) -> list[Document]:
    """The limits that Envoy can hold."""
    rules: list[Document] = []
    for index, limit in enumerate(server.rate_limit):
        place = f"servers: {server.name}: rateLimit[{index}]"
        if "tool" in limit.by or limit.tools:
            notices.warn(place, "Envoy sees no tools: this limit is not held")
            continue
        if "agent" in limit.by and not all(door.named for door in doors):
            notices.warn(place, "callers without a key or a token are not told apart: this limit is not held for them")
        if limit.agents:
            notices.warn(place, "Envoy holds it for all callers, not for these agents alone")
        rules += _rate_limit(limit, doors, place, notices)
    return rules


def _rate_limit(limit: RateLimit, doors: list[Door], place: str, notices: Notices) -> list[Document]:
    unit = next((size for size in _UNITS if size >= limit.per), max(_UNITS))
    requests = min(limit.requests * unit / limit.per, _MOST_REQUESTS)
    if requests < 1:
        notices.warn(place, "Envoy Gateway counts by the year at most: there is one request in each, which is more")
    elif unit != limit.per:
        notices.warn(place, f"Envoy counts by the {_UNITS[unit].lower()}: {int(requests)} in one, all of them at once")
    elif limit.burst not in (None, limit.requests):
        notices.warn(place, f"Envoy has no burst: all {limit.requests} may come at once")
    counted = {"limit": {"requests": max(int(requests), 1), "unit": _UNITS[unit]}}
    if "agent" not in limit.by:
        return [counted]
    headers = dict.fromkeys(door.named for door in doors if door.named)  # a caller has a name in one of them
    return [{"clientSelectors": [{"headers": [{"name": header, "type": "Distinct"}]}], **counted} for header in headers]
