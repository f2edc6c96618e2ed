"""Every key of the model: a plan that is made with another value differs, or says that the key is not for Envoy.

A key that is added to the model and forgotten in `config/plan` fails here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from openmcp.config import load
from openmcp.config.model import (
    Address,
    Configuration,
    DynamodbState,
    KubernetesOrigin,
    NoneAgents,
    Secret,
    Server,
    SpiffeTls,
    SqliteState,
)
from openmcp.config.plan import CannotPlan, Plan, Target, plan
from tests.config.planning import FOLDER

replaced = msgspec.structs.replace
EVERYTHING = load(FOLDER / "everything.yaml").configuration
MODES = {"direct": Target(), "ai": Target(ai_gateway=True)}

SAID = {
    # what Envoy has no use for: the notice that says so, by its beginning
    "Listen.admin": "listen.admin: ",
    "Approvals": "approvals: ",
    "Console": "approvals: ",
    "Oidc": "approvals: ",
    "ApproverToken": "approvals: ",
    "SlackChannel": "approvals: ",
    "EmailChannel": "approvals: ",
    "Smtp": "approvals: ",
    "Workflow": "approvals: ",
    "Sessions": "sessions: ",
    "RedisState": "state: ",
    "SqliteState": "state: ",
    "DynamodbState": "state: ",
    "Telemetry": "telemetry: ",
    "Audit": "telemetry: ",
    "Otlp": "telemetry: ",
    "Rotation": "telemetry: ",
    "KubernetesOrigin": "source: ",
    "Identity.workload_api": "identity.workloadApi: ",
    "SvidSelection": "identity.workloadApi: ",
    "JwtSvidAgents": "identity.agents[1]: not at the gateway",
    "ForwardedAgents": "identity.agents[5]: not at the gateway",
    "JwtAgents.algorithms": "identity.agents[2].algorithms: ",
    "JwtAgents.clock_skew": "identity.agents[2].clockSkew: ",
    "Jwks.ca": "identity.agents[2].jwks.ca: ",
    "Jwks.file": ("ConfigMap openmcp/openmcp-jwks-3: ", "identity.agents: an MCPRoute has one way to know callers"),
    "AgentSelector": "identity.agents: an MCPRoute knows nobody by a certificate",
    "ApiKey": ("Secret openmcp/openmcp-api-keys: ", "identity.agents: an MCPRoute has one way to know callers"),
    "SpiffeTls": "listen.tls: ",
    "WebTls": "Secret openmcp/openmcp-tls: ",
    "ServerTls.ca": "ConfigMap openmcp/most.ca: ",
    "HeaderAuth.value": "Secret openmcp/most.credential: ",
    "JwtSvidAuth": "servers: tokens: auth: ",
    "OAuthAuth": "servers: oauth: auth: ",
    "OAuthClient": "servers: oauth: auth: ",
    "Server.translate": "servers: most: translate: ",
    "PinTools": "servers: most: pinTools",
    "Stdio": "servers: program: has no endpoint",
    "ProcessLimits": "servers: program: has no endpoint",
    "Timeouts.request": "servers: most: timeouts",
    "Timeouts.tools": "servers: most: timeouts",
    "Limits.response_bytes": "servers: most: limits",
    "Retries.tools": "servers: most: retries",
    "RateLimit.agents": "servers: most: rateLimit",
    "RateLimit.tools": "servers: most: rateLimit",
    "RateLimit.burst": "servers: most: rateLimit[0]: Envoy has no burst",
    "RequestRule": ("servers: most: Envoy sees no tools", "policies: everything: "),
    "Condition": ("servers: most: Envoy sees no tools", "policies: everything: odd"),
    "Approval": ("servers: most: Envoy sees no tools", "policies: everything: ask"),
    "ResponseRule": ("servers: most: Envoy sees no tools", "servers: most: Envoy AI Gateway does not look into"),
    "Binary": ("servers: most: Envoy sees no tools", "servers: most: Envoy AI Gateway does not look into"),
}
OF_A_SERVER = {
    "Health": "health", "Timeouts": "timeouts", "Limits": "limits", "Retries": "retries", "Outliers": "outliers",
    "RateLimit": "rateLimit", "PinTools": "pinTools",
}  # fmt: skip
"""Envoy AI Gateway makes routes itself: there each of these is in one warning."""
SETTLED = {
    "Listen.mcp": "the Gateway has the port of listen.url, or 443",
    "JwtSvidAuth.allow_http": "settled when the configuration is read, as the next two",
    "HeaderAuth.allow_http": "",
    "OAuthAuth.allow_http": "",
}


def variants() -> Iterator[Configuration]:
    """Everything, and what excludes something in it in its place."""
    yield EVERYTHING
    dynamo = DynamodbState(
        table="t", region="r", endpoint="https://d", credentials="spiffe", role_arn="a", home_region="h"
    )
    yield replaced(EVERYTHING, state=dynamo, listen=replaced(EVERYTHING.listen, tls=SpiffeTls(trust_domains=("a",))))
    known = tuple(one for one in EVERYTHING.identity.agents if not isinstance(one, NoneAgents))
    yield replaced(EVERYTHING, identity=replaced(EVERYTHING.identity, agents=known))
    yield replaced(
        EVERYTHING, state=SqliteState(path="a.db"), source=KubernetesOrigin(namespace="n", max_staleness=60.0)
    )


LEAVES = (Secret, Address)


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that a type is made of; those of `LEAVES` are values."""
    for part in get_args(kind):
        yield from structs(part)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in LEAVES:
        yield kind
        for hint in get_type_hints(kind).values():
            yield from structs(hint)


FIELDS = [
    (struct, field)
    for struct in dict.fromkeys(structs(Configuration))
    for field, hint in get_type_hints(struct).items()
    if not field.startswith("_") and not any(structs(hint))
]
"""Those that have no fields of their own."""


def changed(value: Any, struct: type, field: str) -> Iterator[Any]:
    """Return `value` with another value in this field, for each place where it is."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from ((*value[:index], made, *value[index + 1 :]) for made in changed(item, struct, field))
    elif isinstance(value, msgspec.Struct):
        for one in msgspec.structs.fields(type(value)):
            inner = getattr(value, one.name)
            if type(value) is struct and one.name == field:
                yield from (replaced(value, **{field: made}) for made in others(inner))
            yield from (replaced(value, **{one.name: made}) for made in changed(inner, struct, field))


def others(value: Any) -> Iterator[Any]:
    """Return values of the same kind that are not this one."""
    if isinstance(value, enum.Enum):
        yield from (one for one in type(value) if one is not value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield type(value)(value * 2 + 1)
    elif isinstance(value, str):
        yield from {"shadow", "sse", f"x{value}"} - {value}
    elif isinstance(value, tuple):
        yield ()
    elif isinstance(value, Secret):
        yield Secret(file="other")
    elif isinstance(value, Address):
        yield Address(host="10.0.0.7", port=7)


def planned(configuration: Configuration, mode: str) -> Plan | str:
    try:
        return plan(configuration, MODES[mode])
    except CannotPlan as error:
        return str(error)


def is_said(name: str, mode: str) -> bool:
    """Whether a notice is about this field; the message of what is missing otherwise."""
    struct = name.partition(".")[0]
    wanted = SAID.get(name, SAID.get(struct, ()))
    beginnings = (wanted,) if isinstance(wanted, str) else wanted
    if mode == "ai" and struct in OF_A_SERVER:
        beginnings = (f"servers: most: {OF_A_SERVER[struct]}: not with Envoy AI Gateway",)
    notices = [
        str(one)
        for made in (planned(one, mode) for one in variants())
        if isinstance(made, Plan)
        for one in (*made.warnings, *made.needs)
    ]
    return any(notice.startswith(beginning) for notice in notices for beginning in beginnings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("struct", "field"), FIELDS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_each_key_is_planned_or_said_not_to_be(struct: type, field: str, mode: str) -> None:
    name = f"{struct.__name__}.{field}"
    if name in SETTLED or is_said(name, mode):
        return
    for configuration in variants():
        before = planned(configuration, mode)
        if any(planned(made, mode) != before for made in changed(configuration, struct, field)):
            return
    pytest.fail(f"{name}: config/plan neither plans it nor says who does: a document, or a warning, has to tell")


def test_a_key_that_is_forgotten_is_seen() -> None:
    assert not is_said("Server.forgotten", "direct")
    assert (Server, "transport") in FIELDS
