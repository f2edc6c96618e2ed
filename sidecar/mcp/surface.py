"""What a client's message touches, as policy sees it: tools, prompts, resources, methods.

Source: the schema of each revision. Only the body is read, never a header.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.mcp.methods import NAMED
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, Era, JsonObject, Kind, Notification, Request, Subject

_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED_SLASH: Final = re.compile("/|%2F|%5C")
_SLASHES: Final = re.compile("/{2,}")
_DOTS: Final = frozenset((".", ".."))
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


def canonical_uri(uri: str) -> str:
    """The syntax-normalised form of a URI (RFC 3986, 6.2.2); raises `Refused` where it has none."""
    if not uri.isprintable() or "\\" in uri or " " in uri:
        raise _invalid("the resource URI has characters that a URI cannot have")
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise _invalid("the resource URI is not a URI") from None
    if not parts.scheme:
        return uri
    path = _without_dots(_normalised_escapes(parts.path))
    if not _DOTS.isdisjoint(_ENCODED_SLASH.split(path)):
        raise _invalid("the resource URI hides dot segments behind encoded slashes")
    netloc = parts.netloc.lower()
    # Not geturl(): it drops the `//` of an empty authority, and `note:///x` would be judged as `note:/x` as well.
    slashes = "//" if uri.partition(":")[2].startswith("//") or path.startswith("//") else ""
    if parts.scheme == "file":  # one file, many names: RFC 8089, and POSIX for slashes
        path, netloc, slashes = _SLASHES.sub("/", f"/{path}"), "" if netloc == "localhost" else netloc, "//"
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{parts.scheme}:{slashes}{netloc}{path}{query}{fragment}"


def _normalised_escapes(path: str) -> str:
    """Decode what needs no escape, so that `%2e` cannot hide a dot; everything else stays encoded."""
    return _ESCAPE.sub(_plain_if_unreserved, path)


def _plain_if_unreserved(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4: remove dot segments."""
    if "/." not in path and not path.startswith("."):
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1 or kept[:1] > [""]:  # never above the root; a path without one just gets shorter
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)


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
