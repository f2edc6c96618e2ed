"""Readings of what SPIFFE names: trust domains, IDs and globs on them, the address of the Workload API."""

from openmcp.config.cursor import At, Reading, list_of, shortened, some, string, unique
from openmcp.config.globs import is_literal
from openmcp.identity import endpoint
from openmcp.identity.spiffe_id import NotASpiffeId, is_trust_domain, parse, parse_workload

_SCHEME = "spiffe://"


def trust_domain(at: At) -> str | None:
    """The name of a trust domain, without the scheme."""
    value = string(at)
    if value is None or is_trust_domain(value):
        return value
    bare = value.lower().removeprefix(_SCHEME).partition("/")[0]
    if "*" in value or "?" in value:
        hint = "each one by its name: globs do not stand here"
    elif is_trust_domain(bare):
        hint = f"write {bare}"
    else:
        hint = "1 to 255 of a-z, 0-9, . _ and -, such as prod.acme.example"
    at.error(f'not the name of a trust domain: "{shortened(value)}"', hint)
    return None


trust_domains: Reading[tuple[str, ...]] = unique(
    some(list_of(trust_domain), "write the names of trust domains, such as [prod.acme.example]"), "trust domain"
)


def workload_id(at: At) -> str | None:
    """The SPIFFE ID of a workload, `spiffe://<trust domain>/<path>`."""
    value = string(at)
    if value is None:
        return None
    try:
        return str(parse_workload(value))
    except NotASpiffeId as error:
        at.error(f'not the SPIFFE ID of a workload: "{shortened(value)}"', str(error))
        return None


def workload_glob(at: At) -> str | None:
    """A SPIFFE ID, or a glob whose trust domain is exact: one in it would let others in than those we know."""
    value = string(at)
    if value is None:
        return None
    if is_literal(value):
        return workload_id(at)
    fault = _glob_fault(value)
    if fault is not None:
        at.error(f'not a glob on SPIFFE IDs: "{shortened(value)}"', fault)
        return None
    domain, _, path = value.removeprefix(_SCHEME).partition("/")
    if not path.strip("*"):
        at.warn(
            f'"{shortened(value)}" is every workload of {domain}, agents too: each of them could pose as this server',
            "name the server's own ID, or the folder that servers alone have",
        )
    return value


def _glob_fault(value: str) -> str | None:
    domain, slash, path = value.removeprefix(_SCHEME).partition("/")
    if not value.startswith(_SCHEME) or not slash:
        return "write spiffe://<trust domain>/<path>"
    if not is_trust_domain(domain):
        return "the trust domain is named exactly, * and ? stand in the path alone"
    try:
        parse_workload(f"{_SCHEME}{domain}/{path.replace('*', 'x').replace('?', 'x')}")
    except NotASpiffeId as error:
        return str(error)
    return None


server_ids: Reading[tuple[str, ...]] = unique(
    some(
        list_of(workload_glob, most=100),
        'write the SPIFFE ID of the server: ["spiffe://prod.acme.example/ns/tools/sa/x"]',
    ),
    "server ID",
)


def workload_api(at: At) -> str | None:
    """The address of the Workload API; the empty text for `none`: there is none."""
    value = string(at)
    if value is None or value == "none":
        return None if value is None else ""
    fault = endpoint.fault(value)
    if fault is not None:
        at.error(f'not the address of a Workload API: "{shortened(value)}"', fault)
        return None
    if not endpoint.is_local(value):
        at.warn(
            "the Workload API over tcp to another machine carries private keys in the clear",
            "use the socket of an agent on this machine: unix:///run/spire/agent-sockets/api.sock",
        )
    return value


def is_spiffe_id(text: str) -> bool:
    """Whether a text is a SPIFFE ID, with or without a path."""
    try:
        parse(text)
    except NotASpiffeId:
        return False
    return True
