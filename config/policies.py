"""From the tree of a source to the policies of the model: which rules there may be, and what they may hold."""

from openmcp.config import model
from openmcp.config.cursor import (
    NOT_HERE,
    At,
    Reading,
    Shape,
    absent,
    choice,
    distinct,
    empty_list,
    fixed,
    list_of,
    some,
    string,
)
from openmcp.config.values import glob, name
from openmcp.config.yamlsource import Mapping

_SELECTS_ALL = "it selects nothing, while a rule without selectors holds for everything: remove the key or fill it"
_TEXT_GLOB = r"\.[*+]|\\.|[\^$|()\[\]{}]"
_URI_GLOB = r"\\.|^\^|\$$|\|"


def _agent_glob(at: At) -> str | None:
    if isinstance(at.node, Mapping):
        at.error(f"selecting agents by a mapping {NOT_HERE}", 'write a glob on the name: "key:ci-*"')
        return None
    return glob(_URI_GLOB)(at)


def _action(at: At) -> model.Action | None:
    word = choice(("allow", "deny"), later=("requireApproval",))(at)
    return None if word is None else model.Action(word)


def _selector(marks: str) -> Reading[tuple[str, ...]]:
    return some(list_of(glob(marks)), _SELECTS_ALL)


_rule: Reading[model.RequestRule] = Shape(
    model.RequestRule,
    {
        "name": name,
        "action": _action,
        "tools": _selector(_TEXT_GLOB),
        "prompts": _selector(_TEXT_GLOB),
        "resources": _selector(_URI_GLOB),
        "methods": _selector(_TEXT_GLOB),
        "message": string,
    },
    required=("name", "action"),
    later={"when": empty_list, "approval": absent},
)


def _rules(at: At) -> tuple[model.RequestRule, ...] | None:
    rules = list_of(_rule)(at)
    if rules is not None:
        names = (item.key("name") for item in at.items() or ())
        distinct(((value, value.text()) for value in names if value is not None), "rule name")
    return rules


policy: Reading[model.Policy] = Shape(
    model.Policy,
    {
        "name": name,
        "servers": some(list_of(glob(_TEXT_GLOB)), 'write the names of servers, or ["*"] for all'),
        "agents": some(list_of(_agent_glob), "remove the key where the policy holds for every agent"),
        "requests": _rules,
    },
    required=("name", "servers"),
    later={"mode": fixed("enforce"), "responses": empty_list},
)
