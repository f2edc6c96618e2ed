"""From the tree of a source to the policies of the model: which rules there may be, and what they may hold."""

import msgspec

from openmcp.config import model
from openmcp.config.conditions import condition
from openmcp.config.cursor import At, Reading, Shape, choice, integer, list_of, pairs, shortened, some, string, unique
from openmcp.config.detectors import DETECTORS
from openmcp.config.problems import did_you_mean
from openmcp.config.values import TEXT_GLOB, URI_GLOB, duration, glob, json_path, name, pattern, size
from openmcp.config.yamlsource import Mapping

_SELECTS_ALL = "it selects nothing, while a rule without selectors holds for everything: remove the key or fill it"
_FINDS_NOTHING = "it looks for nothing: remove the key or fill it"


def detector(at: At) -> str | None:
    value = string(at)
    if value is not None and value not in DETECTORS:
        hint = did_you_mean(value, DETECTORS) or f"one of: {', '.join(DETECTORS)}"
        at.error(f'unknown detector "{shortened(value)}"', hint)
        return None
    return value


def _selector(marks: str) -> Reading[tuple[str, ...]]:
    return some(list_of(glob(marks)), _SELECTS_ALL)


_SELECTORS: dict[str, Reading[tuple[str, ...]]] = {
    "tools": _selector(TEXT_GLOB),
    "prompts": _selector(TEXT_GLOB),
    "resources": _selector(URI_GLOB),
    "methods": _selector(TEXT_GLOB),
}
_FINDERS: dict[str, Reading[tuple[str, ...]]] = {
    "detect": some(list_of(detector), _FINDS_NOTHING),
    "patterns": some(list_of(pattern), _FINDS_NOTHING),
}


def action(at: At) -> model.Action | None:
    word = choice(action.value for action in model.Action)(at)
    return None if word is None else model.Action(word)


def approval(at: At) -> model.Approval | None:
    value = approval_shape(at)
    longest = value.max_duration if value is not None else None
    if value is None or longest is None or value.duration <= longest:
        return value
    given = at.key("duration")
    if given is None:
        return msgspec.structs.replace(value, duration=longest)
    given.error("longer than `maxDuration`", "the approver may choose up to maxDuration; duration is the default")
    return None


approval_shape: Reading[model.Approval] = Shape(
    model.Approval,
    {
        "workflow": name,
        "show": list_of(json_path),
        "bind": list_of(json_path),
        "duration": duration,
        "maxDuration": duration,
        "maxUses": integer(1, 1_000_000),
    },
    required=("workflow",),
)

request_shape: Reading[model.RequestRule] = Shape(
    model.RequestRule,
    {
        "name": name,
        "action": action,
        **_SELECTORS,
        "when": list_of(condition, most=100),
        **_FINDERS,
        "message": string,
        "approval": approval,
    },
    required=("name", "action"),
)


def request_rule(at: At) -> model.RequestRule | None:
    rule = request_shape(at)
    if rule is None:
        return None
    given = at.key("approval")
    if rule.action is model.Action.REQUIRE_APPROVAL and given is None:
        at.error("`approval` is required with `action: requireApproval`", "write approval: {workflow: NAME}")
        return None
    if rule.action is not model.Action.REQUIRE_APPROVAL and given is not None:
        given.error(f"`approval` has no meaning with `action: {rule.action}`", "write action: requireApproval")
        return None
    return rule


def response_action(at: At) -> model.ResponseAction | None:
    word = choice(action.value for action in model.ResponseAction)(at)
    return None if word is None else model.ResponseAction(word)


def _make_response_rule(**values: object) -> model.ResponseRule:
    return msgspec.convert({"except_" if key == "except" else key: values[key] for key in values}, model.ResponseRule)


response_shape: Reading[model.ResponseRule] = Shape(
    _make_response_rule,
    {
        "name": name,
        "action": response_action,
        **_FINDERS,
        "except": some(list_of(pattern), "it excepts nothing: remove the key or fill it"),
        "paths": some(list_of(json_path), "no place is in an empty list: remove the key where every place counts"),
        "binary": Shape(
            model.Binary,
            {"types": some(list_of(glob(TEXT_GLOB)), "remove the key where every type counts"), "over": size},
        ),
        **_SELECTORS,
    },
    required=("name", "action"),
)


def response_rule(at: At) -> model.ResponseRule | None:
    rule = response_shape(at)
    if rule is None:
        return None
    looks = rule.detect or rule.patterns
    if not looks and rule.binary is None:
        at.error("the rule looks for nothing", "write `detect`, `patterns` or `binary`")
        return None
    excepted = at.key("except")
    if excepted is not None and not looks:
        excepted.error("`except` has no meaning without `detect` or `patterns`", "it excepts texts that these find")
        return None
    return rule


parts: Reading[model.AgentSelector] = Shape(
    model.AgentSelector,
    {
        "trustDomain": glob(TEXT_GLOB),
        "namespace": glob(TEXT_GLOB),
        "serviceAccount": glob(TEXT_GLOB),
        "claims": pairs(glob(URI_GLOB)),
    },
)


def agent(at: At) -> str | model.AgentSelector | None:
    if not isinstance(at.node, Mapping):
        return glob(URI_GLOB)(at)
    if not at.node.entries:
        at.error("an empty mapping", 'write trustDomain, namespace, serviceAccount or claims, or the glob "*" for all')
        return None
    return parts(at)


policy: Reading[model.Policy] = Shape(
    model.Policy,
    {
        "name": name,
        "servers": some(list_of(glob(TEXT_GLOB)), 'write the names of servers, or ["*"] for all'),
        "agents": some(list_of(agent), "remove the key where the policy holds for every agent"),
        "mode": choice(("enforce", "shadow")),
        "requests": unique(list_of(request_rule), "rule name", "name"),
        "responses": unique(list_of(response_rule), "rule name", "name"),
    },
    required=("name", "servers"),
)
"""One entry of `policies`, the spec of an MCPPolicy."""
