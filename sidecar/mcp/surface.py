"""What a client's message touches, as policy sees it: tools, prompts, resources, methods.

Source: the schema of each revision. Only the body is read, never a header.
"""

from typing import Any, Final

from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.mcp.methods import NAMED
from openmcp.sidecar.mcp.uris import canonical_uri
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, Era, JsonObject, Kind, Notification, Request, Subject

_REFERENCES: Final = {"ref/prompt": (PROMPT, "name"), "ref/resource": (RESOURCE, "uri")}


def call_of(message: Request | Notification, era: Era, version: str) -> Call:
    """Read what a message touches; raises `Refused` (-32602) where it does not name it properly."""
    named = NAMED.get(message.method)
    if named is not None:
        kind, member = named
        name = _text(message.params, member)
        return Call(message, era, version, name, subjects_of(kind, name))
    if message.method == "completion/complete":
        kind, name = _reference(message.params)
        return Call(message, era, version, name, subjects_of(kind, name))
    method = Subject(METHOD, message.method)
    if message.method == "subscriptions/listen":
        uris = _listened(message.params)
        touched = (subject for uri in uris for subject in subjects_of(RESOURCE, uri))
        return Call(message, era, version, "", (method, *touched))
    return Call(message, era, version, "", (method,))


def subjects_of(kind: Kind, name: str) -> tuple[Subject, ...]:
    """The subjects of one named thing: a URI that is not in canonical form is judged in both forms."""
    if kind is not RESOURCE:
        return (Subject(kind, name),)
    canonical = canonical_uri(name)
    if canonical == name:
        return (Subject(kind, name),)
    return (Subject(kind, name), Subject(kind, canonical))


def _reference(params: JsonObject) -> tuple[Kind, str]:
    reference = params.get("ref")
    if type(reference) is not dict or _exactly(reference, "type") not in tuple(_REFERENCES):
        raise _invalid("params.ref must be a ref/prompt or a ref/resource")
    kind, member = _REFERENCES[reference["type"]]
    _exactly(reference, member)
    return kind, _text(reference, member)


def _listened(params: JsonObject) -> list[str]:
    wanted = _exactly(params, "notifications", {})
    if type(wanted) is not dict:
        raise _invalid("params.notifications must be an object")
    uris = _exactly(wanted, "resourceSubscriptions", [])
    if type(uris) is not list or not all(type(uri) is str for uri in uris):
        raise _invalid("params.notifications.resourceSubscriptions must be a list of URIs")
    return uris


def _exactly(mapping: JsonObject, member: str, absent: object = None) -> Any:
    """A member that decides something; a key that differs in letter case alone is one to servers that ignore case."""
    folded = member.casefold()
    if any(key != member and key.casefold() == folded for key in mapping):
        raise _invalid(f"a key differs from {member} in letter case alone")
    return mapping.get(member, absent)


def _text(params: JsonObject, member: str) -> str:
    value: Any = params.get(member)
    if type(value) is not str or not value:
        raise _invalid(f"params.{member} must be a non-empty string")
    return value


def _invalid(message: str) -> Refused:
    return Refused(400, INVALID_PARAMS, message, reason="malformed")
