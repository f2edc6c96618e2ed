"""Readings of single values: durations, sizes, addresses, names, paths, URLs, digests, globs, secrets."""

import hashlib
import ipaddress
import os
import re
from urllib.parse import SplitResult, urlsplit

from openmcp.config.addresses import HOST_NAME, is_ipv6
from openmcp.config.cursor import At, shortened, string, text
from openmcp.config.jsonpath import PathError, compile_path
from openmcp.config.model import Secret
from openmcp.config.patterns import check_pattern
from openmcp.config.problems import did_you_mean
from openmcp.config.yamlsource import Mapping, Refused, Scalar
from openmcp.identity.addresses import is_this_machine

_AMOUNT = re.compile(r"([0-9]{1,9})([A-Za-z]*)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST = "876000h"
"""A duration of a hundred years: what others who read ours can count."""
_LONGEST_SECONDS = 876_000 * 3600.0
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
MAIL_ADDRESS = re.compile(
    r"(?=.{3,254}$)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
)
_PATH = re.compile(r"/|(?:/[A-Za-z0-9._~-]+)+")
MAX_URL = 2048
"""Characters of a URL."""
MAX_PATTERN = 65_536
"""Characters of a regular expression, before RE2's own limit on its size."""
_URL_TEXT = re.compile(r"[!-~]+")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_EMPTY_DIGEST = hashlib.sha256(b"").hexdigest()
TEXT_GLOB = r"\.[*+]|\\.|[\^$|()\[\]{}]"
URI_GLOB = r"\\.|^\^|\$$|\|"
"""What a glob on names, and one on texts where much may stand, such as URIs, has no use for."""

_CHOSEN = ("email", "name", "nickname", "preferred_username")
"""Claims that users may change themselves at common identity providers (OpenID Connect Core, 5.7)."""
_MAKE_DIGEST = 'make one with: printf %s "$KEY" | sha256sum'


def _amount(at: At, units: dict[str, float] | dict[str, int], what: str, example: str) -> tuple[int, str] | None:
    text = at.text()
    found = _AMOUNT.fullmatch(text)
    if not isinstance(at.node, Scalar) or at.node.value is None or isinstance(at.node.value, bool):
        at.expected(f"a {what} such as {example}")
    elif found is None:
        at.error(f'not a {what}: "{shortened(text)}"', f"a whole number and one of {', '.join(units)}: {example}")
    elif not found[2]:
        at.error(f"a {what} needs a unit, found {text}", f"one of {', '.join(units)}: {example}")
    elif found[2] not in units:
        near = did_you_mean(found[2], units)
        at.error(f'unknown unit "{shortened(found[2])}"', near or f"one of {', '.join(units)}: {example}")
    else:
        return int(found[1]), found[2]
    return None


def duration(at: At) -> float | None:
    """`500ms`, `30s`, `15m`, `4h`: seconds, more than 0."""
    amount = _amount(at, _SECONDS, "duration", "30s")
    if amount is None:
        return None
    if amount[0] == 0:
        at.error("must be more than 0")
        return None
    seconds = amount[0] / 1000 if amount[1] == "ms" else amount[0] * _SECONDS[amount[1]]
    if seconds > _LONGEST_SECONDS:
        at.error(f"must be at most {LONGEST}, found {at.text()}")
        return None
    return seconds


def size(at: At) -> int | None:
    """`512B`, `64KiB`, `4MiB`, `1GiB`: bytes, more than 0."""
    amount = _amount(at, _BYTES, "size", "64KiB")
    if amount is None:
        return None
    if amount[0] == 0:
        at.error("must be more than 0")
        return None
    return amount[0] * _BYTES[amount[1]]


def is_name(text: str) -> bool:
    """Whether something may have this name."""
    return _NAME.fullmatch(text) is not None


def name(at: At) -> str | None:
    """The name of a server, policy, rule or key: letters, digits, `.`, `_`, `-`; at most 253 of them."""
    value = string(at)
    if value is not None and not is_name(value):
        hint = "letters, digits, . _ and -, beginning and ending with a letter or digit"
        at.error(f'not a name: "{shortened(value)}"', hint)
        return None
    return value


def url_path(at: At) -> str | None:
    """The path of a server on the listener, such as `/zendesk`; compared as a whole."""
    value = string(at)
    if value is None:
        return None
    fault = path_fault(value)
    if fault is not None:
        at.error(f'not a path: "{shortened(value)}"', fault)
        return None
    return value


def path_fault(value: str) -> str | None:
    """What is wrong with the path of a server."""
    if not value.startswith("/"):
        return f'a path begins with /: "/{shortened(value)}"'
    if "?" in value or "#" in value:
        return "a path has no query and no fragment"
    if len(value) > 1 and value.endswith("/"):
        return f'no slash at the end: "{shortened(value.rstrip("/") or "/")}"'
    if value.split("/")[1] == ".well-known":
        return "what lies under /.well-known is not for servers (RFC 8615)"
    if not _PATH.fullmatch(value) or any(part in (".", "..") for part in value.split("/")):
        return "segments of letters, digits and . _ ~ -, one / between them, neither . nor .. alone"
    return None


class url:
    """The URL of something: http or https, a host, nothing that names a user, no fragment, a query where `query`."""

    def __init__(self, of: str, *, query: bool = False) -> None:
        self.of, self.query = of, query

    def __call__(self, at: At) -> str | None:
        """The URL as it is written, None where it was refused."""
        value = string(at)
        if value is None:
            return None
        fault = self._fault(value)
        if fault is not None:
            shown = "" if "@" in value else f': "{shortened(value)}"'  # what stands before @ may be a password
            at.error(f"not the URL of {self.of}{shown}", fault)
            return None
        return value

    def _fault(self, value: str) -> str | None:
        if len(value) > MAX_URL:
            return f"at most {MAX_URL} characters"
        if not _URL_TEXT.fullmatch(value):
            return "only printable ASCII without blanks"
        return _url_fault(value.partition("?")[0] if self.query and "#" not in value else value)


def _url_fault(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "the host or port cannot be read"
    if parts.scheme not in ("http", "https"):
        return "begin with http:// or https://"
    if port == 0 or not parts.hostname or not (HOST_NAME.fullmatch(parts.hostname) or ":" in parts.hostname):
        return "name a host and, where it is not the usual one, a port from 1 to 65535"
    return _surplus(parts, value)


def _surplus(parts: SplitResult, value: str) -> str | None:
    if "@" in parts.netloc:
        return "no user or password in the URL"
    if "#" in value:
        return "no fragment in the URL"
    return "no query in the URL" if "?" in value else None


def no_clear_text(at: At, value: str | None, why: str) -> str | None:
    """The same URL; None, reported, for http to another machine."""
    parts = urlsplit(value or "")
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        at.error(f"http to another machine: {why}", "write https://")
        return None
    return value


def origin(at: At) -> str | None:
    """A browser origin, `https://app.example[:port]`, lower-cased."""
    value = string(at)
    if value is None:
        return None
    text = value.lower()
    form = r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
    if not re.fullmatch(form, text) or _url_fault(text) is not None:
        hint = "scheme, host and port alone, such as https://app.example; each one by name"
        at.error(f'not an origin: "{shortened(value)}"', hint)
        return None
    return text


def network(at: At) -> str | None:
    """An IPv4 or IPv6 network, or an address, which is the network of itself alone."""
    value = string(at)
    if value is None:
        return None
    try:
        read = ipaddress.ip_network(value, strict=False)
    except ValueError:
        at.error(f'not a network: "{shortened(value)}"', "write an address and a prefix: 10.0.0.0/8, 2001:db8::/32")
        return None
    address = value.partition("/")[0]
    if ipaddress.ip_address(address) != read.network_address:
        at.error(f'not a network: "{shortened(value)}" has bits behind its prefix', f"write {read}, or {address}")
        return None
    return str(read)


def host(at: At) -> str | None:
    """What clients may send as `Host`: `name` (with any port) or `name:port`, lower-cased."""
    value = string(at)
    if value is None:
        return None
    text = value.lower()
    if not re.fullmatch(r"(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", text):
        hint = "a host name with or without :port, no scheme, no wildcard"
        at.error(f'not a host: "{shortened(value)}"', hint)
        return None
    return text


def host_name(at: At) -> str | None:
    """An IP address, without brackets, or a name to connect to."""
    value = string(at)
    if value is not None and not (HOST_NAME.fullmatch(value) or is_ipv6(value)):
        at.error(f'not a host: "{shortened(value)}"', "an IP address or a name, without scheme and port")
        return None
    return value


def mail_address(at: At) -> str | None:
    """An address of e-mail, without a name before it (RFC 5321, 4.1.2, without quoted local parts)."""
    value = string(at)
    if value is not None and not MAIL_ADDRESS.fullmatch(value):
        at.error(f'not an address: "{shortened(value)}"', "write lead@acme.example, without a name and brackets")
        return None
    return value


def sha256(at: At) -> str | None:
    """The lower-case hex digest of a key that is not empty; what is written instead may be the key: never shown."""
    text = at.text()  # digits alone, or with one e among them, look like a number to YAML
    if not isinstance(at.node, Scalar) or not text:
        at.expected("a SHA-256 digest", _MAKE_DIGEST)
    elif text == _EMPTY_DIGEST:
        at.error("this is the digest of the empty text", _MAKE_DIGEST)
    elif _HEX_DIGEST.fullmatch(text.lower()) and text != text.lower():
        at.error("a SHA-256 digest is written in lower case", f"write {text.lower()}")
    elif not _HEX_DIGEST.fullmatch(text):  # not shown: it may be the key itself
        at.error(f"not a SHA-256 digest: 64 hexadecimal digits expected, found {len(text)} characters", _MAKE_DIGEST)
    else:
        return text
    return None


def tool_digest(at: At) -> str | None:
    """The digest that a tool's definition is pinned to, as the sidecar's report of a changed tool names it."""
    text = at.text()
    if not isinstance(at.node, Scalar) or not _HEX_DIGEST.fullmatch(text):
        at.expected("the digest of a tool's definition", "64 hexadecimal digits in lower case")
        return None
    return text


def file_name(at: At) -> str | None:
    """A file; a relative name starts from the folder of the file it is written in."""
    value = string(at)
    return None if value is None else os.path.normpath(os.path.join(at.base, value))


def secret(at: At) -> Secret | None:
    """`{file: PATH}` or `{env: NAME}`; never the secret itself, which no error repeats."""
    if not isinstance(at.node, Mapping):
        if not isinstance(at.node, Refused):
            at.error("a secret is never written here", "write {file: PATH} or {env: NAME}")
        return None
    known = {"file": file_name, "env": _variable}
    given = [key for key in at.node.entries if key in known]
    unknown = [key for key in at.node.entries if key not in known]
    if unknown or len(given) != 1:
        at.error("exactly one of `file` and `env` is wanted", "write {file: PATH} or {env: NAME}")
        return None
    found = at.key(given[0])
    value = known[given[0]](found) if found is not None else None
    if value is None:
        return None
    return Secret(file=value) if given[0] == "file" else Secret(env=value)


def _variable(at: At) -> str | None:
    value = string(at)
    if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        at.error("not the name of an environment variable", "letters, digits and _; the name, not the value")
        return None
    return value


class glob:
    """A glob (`*` any text, `?` one character); warns where it looks like a regular expression.

    `regular_marks` is a regular expression for what such a glob has no use for.
    """

    def __init__(self, regular_marks: str) -> None:
        self._marks = re.compile(regular_marks)

    def __call__(self, at: At) -> str | None:
        """The glob as it is written, None where it was refused."""
        value = string(at)
        found = self._marks.search(value) if value is not None else None
        if found is not None:
            hint = "globs know * for any text and ? for one character; everything else stands for itself"
            at.warn(f'looks like a regular expression: "{shortened(value or "")}" holds {found[0]}', hint)
        return value


def pattern(at: At) -> str | None:
    """A regular expression that RE2 takes."""
    value = text(at, MAX_PATTERN)
    fault = check_pattern(value) if value is not None else None
    if fault is not None:
        at.error(f'RE2 refuses the pattern "{shortened(value or "")}"', fault)
        return None
    return value


def json_path(at: At) -> str | None:
    """A JSONPath that `config.jsonpath` compiles."""
    value = string(at)
    if value is None:
        return None
    try:
        compile_path(value)
    except PathError as error:
        at.error(f'not a JSONPath: "{shortened(value)}"', str(error))
        return None
    return value


def number(at: At) -> int | float | None:
    """A number, whole or not."""
    value = at.node.value if isinstance(at.node, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        at.expected("a number")
        return None
    return value


def share(at: At) -> float | None:
    """A part of the whole: a number from 0 to 1."""
    value = number(at)
    if value is not None and not 0 <= value <= 1:
        at.error(f"must be between 0 and 1, found {at.text()}", "0.25 is a quarter")
        return None
    return None if value is None else float(value)


def warn_if_chosen(at: At, claim: str | None, whose: str) -> None:
    """Warn of a claim by which somebody is known and which users choose; `whose` says whose name they could take."""
    if claim in _CHOSEN:
        at.warn(
            f"at many identity providers users choose their `{claim}` themselves: one could take {whose}",
            "sub is given once and never changes",
        )
