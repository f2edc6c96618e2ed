"""What the record keeps of messages (`telemetry.audit.payloads: redacted`): what passed, without what nobody may keep.

What an agent sends is redacted as the response rules of its server redact what comes back; what comes back is kept as
it was passed on. Of what was removed there is a keyed hash: the same text has the same hash, and nobody without the key
can find it by trying. Tokens that we have sealed become fingerprints, and credentials and session ids never get in.
"""

import hashlib
import hmac
from typing import Any, Final

from openmcp.sidecar.inspection.findings import Finding
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.mcp.methods import NAMED
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.telemetry.records import clip, encode, escaped, fingerprint
from openmcp.sidecar.types import JsonObject

MAX_BYTES: Final = 64 * 1024
"""Bytes of JSON of one message that are kept; of a longer one its beginning, its length and its hash."""
_BEGINNING: Final = 4096
_SHORTEST_SECRET: Final = 8
_CREDENTIAL: Final = "[credential]"
_SEALED: Final = ("cursor", "nextCursor", "requestState")


class Payloads:
    """Writes messages into lines. `key` (32 bytes) is that of the hashes of removed texts."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sent(self, flow: Flow, member: str, value: JsonObject) -> bytes:
        """What an agent sends, redacted: `"params":{...}`, `"removed":[...]`. Where that is in the name of what is
        asked for, the record's lines have `flow.kept` in its place."""
        inspector = flow.snapshot.inspectors.find(flow.principal, flow.server)
        if inspector is None:
            return self._members(flow, member, value, ())
        subjects = flow.call.subjects if flow.call is not None else ()
        examined = inspector.redacted(subjects, value)
        if examined.document is not value:
            flow.kept = _name(flow.method, examined.document)
        return self._members(flow, member, examined.document, examined.findings)

    def passed(self, flow: Flow, member: str, value: JsonObject | None, size: int) -> bytes:
        """What was passed on to the agent, as it was; None where it was too large to be looked at here."""
        if value is None:
            return _clipped(member, size)
        return self._members(flow, member, value, flow.findings)

    def _members(self, flow: Flow, member: str, value: JsonObject, findings: tuple[Finding, ...]) -> bytes:
        value = _without_seals(value)
        text = _encoded(value)
        secrets = _secrets(flow, text)
        if secrets:
            text = _encoded(_without(value, secrets))
            flow.kept = _without(flow.kept or flow.name, secrets)
        text = escaped(text)
        kept = b'"%b":%b' % (member.encode(), text) if len(text) <= MAX_BYTES else _clipped(member, len(text), text)
        removed = [finding for finding in findings if finding.removed and not finding.shadow]
        return kept + self._removed(removed, bool(secrets)) if removed or secrets else kept

    def _removed(self, findings: list[Finding], credential: bool) -> bytes:
        entries = [{"path": "$", "what": "credential"}] if credential else []
        for finding in findings:
            entries.append({"path": clip(finding.path), "what": finding.what, "hmac": self._hash(finding.removed)})
        return b"," + encode({"removed": entries})[1:-1]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _encoded(value: Any) -> bytes:
    try:
        return jsonrpc.encode(value)
    except (ValueError, RecursionError):  # a number beyond all floats, a lone surrogate: kept, though not exactly
        return encode(value)


def _clipped(member: str, size: int, text: bytes = b"") -> bytes:
    """A message that is too long: its length as JSON and, where it was looked at, its hash and how it begins."""
    fields: dict[str, object] = {"member": member, "bytes": size}
    if text:
        fields["sha256"] = hashlib.sha256(text).hexdigest()
        fields["begins"] = text[:_BEGINNING].decode("utf-8", "ignore")
    return encode({"clipped": fields})[1:-1]


def _without_seals(value: JsonObject) -> JsonObject:
    """Cursors and request states by their fingerprints: agents hold ours, which are worth something to them."""
    for member in _SEALED:
        token = value.get(member)
        if type(token) is str:
            value = value | {member: f"[sealed {fingerprint(token)}]"}
    return value


def _secrets(flow: Flow, text: bytes) -> list[str]:
    """What the agent proved itself by, and the session's two ids, as far as they stand in this JSON text."""
    given = flow.request.headers
    found = [given.get(b"x-api-key", b""), given.get(b"mcp-session-id", b"")]
    if b"authorization" in given:
        found.append(given[b"authorization"].partition(b" ")[2])
    if flow.session is not None:
        found.append(flow.session.upstream_id.encode())
    return [secret.decode("latin-1") for secret in found if len(secret) >= _SHORTEST_SECRET and _stands(secret, text)]


def _name(method: str, params: JsonObject) -> str:
    """The name in the params of a call; empty where there is none."""
    named = NAMED.get(method)
    if named is not None:
        return str(params.get(named[1], ""))
    reference = params.get("ref")
    if type(reference) is not dict:
        return ""
    return str(reference.get("uri" if reference.get("type") == "ref/resource" else "name", ""))


def _stands(secret: bytes, text: bytes) -> bool:
    if not secret.isascii() or b'"' in secret or b"\\" in secret:  # JSON writes it otherwise
        secret = jsonrpc.encode({"": secret.decode("latin-1")})[5:-2]
    return secret in text


def _without(value: Any, secrets: list[str]) -> Any:
    if type(value) is str:
        for secret in secrets:
            value = value.replace(secret, _CREDENTIAL)
        return value
    if type(value) is dict:
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    if type(value) is list:
        return [_without(item, secrets) for item in value]
    return value
