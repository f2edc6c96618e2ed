"""What a server proposes to complete an argument with: only values that the agent may also use.

Source: completion/complete of each revision. Policy judges the prompt or resource that is asked about together with the
value typed so far; a proposal is judged as if it were that value, and a template of a resource as the URI that it
makes, so that what is denied cannot be enumerated.
"""

import re
from typing import Final

from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.mcp.surface import subjects_of
from openmcp.sidecar.policy.asked import completed
from openmcp.sidecar.policy.decision import DENY
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.types import RESOURCE, JsonObject, Subject

_VARIABLE: Final = re.compile(r"\{[+#./;?&]?([A-Za-z0-9_.%]+)[*]?\}")
"""A variable of a URI template (RFC 6570) that names one value; a fixed pattern of linear time."""


def permitted(flow: Flow, result: JsonObject) -> JsonObject:
    """The result with the values that would be denied left out; the same object where none would.

    Raises `UpstreamFailed` (protocol) for a result that is not a completion.
    """
    completion = result.get("completion")
    values = completion.get("values") if type(completion) is dict else None
    if type(completion) is not dict or type(values) is not list:
        raise UpstreamFailed("protocol", "the server's completion/complete result has no list completion.values")
    kept = [value for value in values if type(value) is str and _may(flow, value)]
    if len(kept) == len(values):
        return result
    rest = {key: value for key, value in completion.items() if key != "total"}  # it would tell how many there are
    return result | {"completion": rest | {"values": kept}}


def _may(flow: Flow, value: str) -> bool:
    call = flow.call
    assert call is not None
    arguments = completed(call.message.params, value)
    if type(arguments) is not dict:
        return False
    try:
        subjects = _meant(call.subjects, call.name, arguments)
    except Refused:  # it makes no URI
        return False
    return flow.snapshot.policies.decide(flow.principal, flow.server, subjects, arguments).verdict is not DENY


def _meant(subjects: tuple[Subject, ...], name: str, arguments: JsonObject) -> tuple[Subject, ...]:
    """What is touched when the value is taken: the URI of a template all of whose variables are known."""
    if subjects[0].kind is not RESOURCE:
        return subjects

    def value(variable: re.Match[str]) -> str:
        given = arguments.get(variable[1])
        return given if type(given) is str else variable[0]

    uri = _VARIABLE.sub(value, name)
    return subjects if "{" in uri else subjects_of(RESOURCE, uri)
