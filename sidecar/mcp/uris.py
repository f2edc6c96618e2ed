"""URIs of resources in one form, so that one resource has one name to judge. Source: RFC 3986, section 6; RFC 8089.

Whatever a rule denies by name must not be had under another name that servers take for the same: what can be made
plain is, and what readers could take for two things is refused.
"""

import contextlib
import ipaddress
import re
from typing import Final, NoReturn
from urllib.parse import urlsplit

from openmcp.config.uriforms import ESCAPE, UNRESERVED, WEB_PORTS
from openmcp.sidecar.errors import INVALID_PARAMS, Refused

# RFC 3986, appendix B. A scheme may have any characters: servers name theirs `my_notes`.
_PARTS: Final = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_ENCODED_SLASH: Final = re.compile("/|%2F|%5C")
_SLASHES: Final = re.compile("/{2,}")
_DOTS: Final = frozenset((".", ".."))
_ROOTED: Final = frozenset((*WEB_PORTS, "file"))
"""Schemes whose authority is a host to everybody, and no part of the path."""


def canonical_uri(uri: str) -> str:
    """The normalised form of a URI; raises `Refused` where it has none. It is the same for its own result."""
    if not uri.isprintable() or "\\" in uri or " " in uri:
        _refuse("has characters that a URI cannot have")
    try:
        urlsplit(uri)
    except ValueError:
        _refuse("is not a URI")
    scheme, authority, path, query, fragment = _parts(uri)
    path = _without_dots(_normalised_escapes(path), within=authority != "" and scheme not in _ROOTED)
    if not _DOTS.isdisjoint(_ENCODED_SLASH.split(path)):
        _refuse("hides dot segments behind encoded slashes")
    if not scheme:  # a name like a path
        plain = path + query + fragment
        return plain if plain == uri else canonical_uri(plain)
    if scheme in WEB_PORTS:
        return f"{scheme}://{_web_host(scheme, _lowered(authority))}{path or '/'}{query}"
    if _climbs(query + fragment) or not _DOTS.isdisjoint(_ENCODED_SLASH.split(_lowered(authority).upper())):
        _refuse("has dot segments where there is no path")
    if scheme == "file":  # one file, many names: RFC 8089, and POSIX for slashes
        host = _lowered(authority)
        return f"file://{'' if host == 'localhost' else host}{_SLASHES.sub('/', f'/{path}')}"
    # The `//` of an empty authority stays: `note:///x` is not `note:/x`.
    slashes = "//" if uri.partition(":")[2].startswith("//") or path.startswith("//") else ""
    return f"{scheme}:{slashes}{_lowered(authority)}{path}{query}{fragment}"


def _parts(uri: str) -> tuple[str, str, str, str, str]:
    """Scheme (in lower case), authority, path, query (with its `?`) and fragment (with its `#`)."""
    found = _PARTS.fullmatch(uri)
    assert found is not None, "it matches every text"
    scheme = (found[1] or "").lower()
    if scheme in WEB_PORTS:  # browsers and JavaScript read `https:host`, `https:/host` and `https:///host` alike
        found = _PARTS.fullmatch(f"{scheme}://{uri.partition(':')[2].lstrip('/')}")
        assert found is not None, "it matches every text"
    return scheme, found[2] or "", found[3], found[4] or "", found[5] or ""


def _web_host(scheme: str, authority: str) -> str:
    """Who is asked: without user and password, the dot behind the name, and the port that goes without saying."""
    host = authority.rpartition("@")[2]
    port = ""
    if not host.endswith("]"):
        name, colon, digits = host.rpartition(":")
        if colon and (not digits or digits.isdecimal()):
            host, port = name, digits.lstrip("0")
    if host.startswith("[") and host.endswith("]"):
        with contextlib.suppress(ValueError):
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
    return host.rstrip(".") + (f":{port}" if port and port != WEB_PORTS[scheme] else "")


def _lowered(authority: str) -> str:
    """An authority in lower case, escapes in upper case."""
    return ESCAPE.sub(lambda match: match[0].upper(), _normalised_escapes(authority).lower())


def _climbs(text: str) -> bool:
    """Whether a path read to the end of the URI would have `..` in a query or fragment."""
    return ".." in _ENCODED_SLASH.split(_normalised_escapes(text).lstrip("?#"))


def _normalised_escapes(path: str) -> str:
    """Decode what needs no escape, so that `%2e` cannot hide a dot; everything else stays encoded."""
    return ESCAPE.sub(_plain_if_unreserved, path)


def _plain_if_unreserved(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in UNRESERVED else match[0].upper()


def _without_dots(path: str, *, within: bool) -> str:
    """RFC 3986, 5.2.4: remove dot segments. `within`: what stands before the path is the first folder to servers that
    read on from there, so nothing may lead out of it."""
    if "/." not in path and not path.startswith("."):
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment != "..":
            kept += [segment] * (segment != ".")
        elif len(kept) > 1 or kept[:1] > [""]:  # never above the root; a path without one just gets shorter
            kept.pop()
        elif within:
            _refuse("leads out of what it names")
    if segments[-1] in _DOTS:
        kept.append("")
    return "/".join(kept)


def _refuse(why: str) -> NoReturn:
    raise Refused(400, INVALID_PARAMS, f"the resource URI {why}", reason="malformed")
