"""The names of callers as people write them: `spiffe://...`, `jwt:<issuer>#<sub>`, `key:<name>`, `anonymous`."""

from openmcp.config.values import is_name
from openmcp.identity.spiffe_id import NotASpiffeId, parse_workload

FORMS = "spiffe://<trust domain>/<path>, jwt:<issuer>#<sub>, key:<name> or anonymous"


def fault(text: str) -> str | None:
    """Why no caller can have this name; None where one can."""
    kind, _, rest = text.partition(":")
    if kind == "spiffe":
        return _spiffe_fault(text)
    if kind == "jwt":
        issuer, _, subject = rest.partition("#")
        return None if issuer and subject else "write jwt:<issuer>#<sub>"
    if kind == "key":
        return None if is_name(rest) else "write key:<name>, one name of an API key and no glob"
    return None if text == "anonymous" else f"write {FORMS}"


def _spiffe_fault(text: str) -> str | None:
    try:
        parse_workload(text)
    except NotASpiffeId as error:
        return f"{error}; it is the ID of one workload, not a glob" if "*" in text or "?" in text else str(error)
    return None
