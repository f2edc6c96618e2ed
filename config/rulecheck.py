"""Warnings about one rule by itself: what it can never match, and what was probably meant otherwise."""

import re

import re2

from openmcp.config.contradictions import contradiction
from openmcp.config.cursor import At, shortened
from openmcp.config.globs import is_literal
from openmcp.config.jsonpath import compile_path
from openmcp.config.model import Action, Condition, Operator, RequestRule, ResponseRule
from openmcp.config.patterns import options
from openmcp.config.uriforms import ESCAPE, UNRESERVED, WEB_PORTS
from openmcp.identity.globs import matches

METHODS = (
    "initialize",
    "ping",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
    "logging/setLevel",
    "server/discover",
    "subscriptions/listen",
    "tasks/get",
    "tasks/result",
    "tasks/list",
    "tasks/cancel",
    "tasks/update",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
)
"""What `methods` selects: the methods of clients that name no tool, prompt or resource."""

NAMING = {
    "tools/call": "tools",
    "prompts/get": "prompts",
    "resources/read": "resources",
    "resources/subscribe": "resources",
    "resources/unsubscribe": "resources",
    "completion/complete": "prompts and resources",
}
"""The other methods, and the selectors that they are judged by."""

_SLASHED = re.compile(r"/\^.*/[a-z]*|/.*[^\\]\$/[a-z]*|/.+/(?:i|g|gi|ig)")
_ANCHORED_START = re.compile(r"\^")
_ANCHORED_END = re.compile(r".*[^\\]\$", re.DOTALL)
_DOT_SEGMENT = re.compile(r"(?:^|/)\.\.?(?:/|$)")


def check_request_rule(rule: RequestRule, at: At) -> None:
    """Warn about a request rule at its place."""
    _selectors(at)
    if rule.action is not Action.ALLOW:
        _naming(rule, at)
    _searched(at.key("patterns"), within_places=False)
    path = contradiction(rule.when)
    conditions = at.key("when")
    if path is not None and conditions is not None:
        conditions.warn(f"the conditions on {path} contradict each other: no value meets all of them")
    only_resources = bool(rule.resources) and not (rule.tools or rule.prompts or rule.methods)
    for condition, place in zip(rule.when, _items(conditions), strict=True):
        _condition(condition, place)
        if only_resources and not compile_path(condition.path)({"uri": ""}):
            place.warn(
                f"{condition.path} finds nothing: of a resource, conditions see its URI alone", "write path: $.uri"
            )
    approval = at.key("approval")
    if rule.approval is not None and approval is not None:
        _approval(rule, approval)


def check_response_rule(rule: ResponseRule, at: At) -> None:
    """Warn about a response rule at its place."""
    _selectors(at)
    _searched(at.key("patterns"), within_places=bool(rule.paths))


def _approval(rule: RequestRule, approval: At) -> None:
    bind = approval.key("bind")
    if bind is not None and rule.approval is not None and not rule.approval.bind:
        bind.warn(
            "a grant would hold whatever the arguments are", "name what it holds for, or remove the key to bind all"
        )


def _items(at: At | None) -> list[At]:
    return (at.items() if at is not None else None) or []


def _selectors(at: At) -> None:
    for item in _items(at.key("methods")):
        text = item.text()
        if text in NAMING:
            item.warn(f"{text} is judged by what it names, not by its method", f"select with {NAMING[text]}")
        elif not any(matches(text, method) for method in METHODS):
            item.warn(f'no method of MCP matches "{shortened(text)}"')
    for item in _items(at.key("resources")):
        fault = uri_fault(item.text())
        if fault is not None:
            item.warn(
                f'"{shortened(item.text())}" is not in canonical form: {fault}', "a URI is judged in that form too"
            )


def _naming(rule: RequestRule, at: At) -> None:
    """A glob that seems to take in methods which are not judged by their name: what should be closed stays open."""
    selected = {kind for kind in ("tools", "prompts", "resources") if getattr(rule, kind)}
    for item in _items(at.key("methods")):
        text = item.text()
        left = [method for method, kinds in NAMING.items() if matches(text, method) and kinds not in selected]
        if text not in NAMING and left and not (left == ["completion/complete"] and selected):
            item.warn(
                f'"{shortened(text)}" leaves {", ".join(left)} as they are: they are judged by what they name',
                "select with tools, prompts and resources too, or leave out all selectors for everything",
            )


def uri_fault(glob: str) -> str | None:
    """What a glob on resource URIs has that no URI in canonical form has; None where it may match one."""
    if " " in glob:
        return "a URI has no blanks, and is refused with them"
    scheme, colon, rest = re.split("[?#]", glob)[0].partition(":")  # what may be a query stays as it is
    if not colon or not re.fullmatch("[A-Za-z][A-Za-z0-9+._-]*", scheme):
        return None
    if "#" in glob and (scheme == "file" or scheme in WEB_PORTS):
        return "what is behind # is left out"
    if scheme != scheme.lower():
        return f"the scheme is written {scheme.lower()}"
    path = rest
    if rest.startswith("//"):
        authority = rest[2:].partition("/")[0]
        path = rest[2 + len(authority) :]
        fault = _authority_fault(scheme, authority, path)
        if fault is not None:
            return fault
    return _path_fault(scheme, path)


def _authority_fault(scheme: str, authority: str, path: str) -> str | None:
    escapes = _escape_fault(authority)
    plain = ESCAPE.sub("", authority)
    if escapes is not None or plain != plain.lower():
        return escapes or f"the host is written {authority.lower()}"
    if scheme == "file" and authority == "localhost":
        return "files of this machine are written file:///..."
    if scheme not in WEB_PORTS:
        return None
    if "@" in authority or authority.endswith((".", ":", f":{WEB_PORTS[scheme]}")):
        return "user and password, a dot behind the host and the usual port are left out"
    return "the path of the root is written /" if not path and is_literal(authority) else None


def _path_fault(scheme: str, path: str) -> str | None:
    if _DOT_SEGMENT.search(path) is not None:
        return "its path has . or .. segments, which are resolved"
    if scheme == "file" and "//" in path:
        return "its path has two slashes in a row, which are one"
    return _escape_fault(path)


def _escape_fault(path: str) -> str | None:
    for escape in ESCAPE.finditer(path):
        character = chr(int(escape[1], 16))
        if character in UNRESERVED:
            return f"{escape[0]} is written {character}"
        if escape[0] != escape[0].upper():
            return f"{escape[0]} is written {escape[0].upper()}"
    return None


def _condition(condition: Condition, at: At) -> None:
    value = at.key("value")
    if condition.op is not Operator.MATCHES or value is None or _slashed(value):
        return
    text = value.text()
    if _ANCHORED_START.match(text) or _ANCHORED_END.fullmatch(text):
        value.warn("`matches` is held against the whole text: ^ and $ add nothing", "where more may follow write .*")


def _searched(patterns: At | None, *, within_places: bool) -> None:
    """Patterns that are searched for in texts."""
    for item in _items(patterns):
        text = item.text()
        if _slashed(item):
            continue
        if _ANCHORED_START.match(text) and _ANCHORED_END.fullmatch(text) and not within_places:
            item.warn(
                "finds texts alone that are nothing else, since it is anchored at both ends",
                r"to find it within a text leave out ^ and $, or write \b",
            )
        elif re2.compile(text, options()).search("") is not None:
            item.warn(
                "finds the empty text, and so something in every text", "write + for *, or name what must be there"
            )


def _slashed(at: At) -> bool:
    if _SLASHED.fullmatch(at.text()) is None:
        return False
    at.warn("the slashes are a part of the pattern", "leave them out; for letters of either case begin with (?i)")
    return True
