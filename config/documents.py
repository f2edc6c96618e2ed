"""From the documents of one or several files to one configuration.

A document is either sections as in `gateway.yaml`, or one Kubernetes object whose spec is one entry of a list.
Lists of several documents are joined in order; a section that is no list may be written once.
"""

from collections.abc import Callable, Iterable
from collections.abc import Mapping as Table
from typing import TypeVar

import msgspec

from openmcp.config import parse
from openmcp.config.approvalcheck import check_approvals
from openmcp.config.approvers import approvals
from openmcp.config.crosscheck import cross_check
from openmcp.config.cursor import At, Reading, distinct, shortened, unknown_key
from openmcp.config.identities import identity
from openmcp.config.kubernetes import guard
from openmcp.config.listening import listen
from openmcp.config.model import Approvals, Configuration, KubernetesOrigin, Policy, Server, Workflow
from openmcp.config.origin import source
from openmcp.config.policies import policy
from openmcp.config.problems import Report, did_you_mean
from openmcp.config.reporting import telemetry
from openmcp.config.state import state
from openmcp.config.workflows import workflow
from openmcp.config.yamlsource import Entry, Mapping, Refused, Scalar

API_VERSION = "openmcp.dev/v1alpha1"

_VALUES: Table[str, Reading[object]] = {
    "listen": listen,
    "identity": identity,
    "sessions": parse.sessions,
    "telemetry": telemetry,
    "approvals": approvals,
    "state": state,
    "source": source,
}
_LISTS = ("servers", "policies")
_KINDS = {"MCPServer": "servers", "MCPPolicy": "policies", "ApprovalWorkflow": "workflows"}
_OBJECT_KEYS = ("apiVersion", "kind", "metadata", "spec", "status")
_SECTIONS = ("apiVersion", *_VALUES, *_LISTS)

T = TypeVar("T", Server, Policy, Workflow)
Listed = tuple[At, Server] | tuple[At, Policy] | tuple[At, Workflow]
"""An entry of one of the lists: its place and what was read there."""


class _Sections:
    """The sections of all documents, sorted by name, with the entries of the lists joined."""

    def __init__(self) -> None:
        self.single: dict[str, At] = {}
        self.lists: dict[str, list[At]] = {name: [] for name in _KINDS.values()}
        self.objects_alone = True

    def add(self, document: At) -> None:
        """Take in one document, reporting what has no place in a configuration."""
        if not isinstance(document.node, Mapping):
            document.expected("a mapping", f"begin with apiVersion: {API_VERSION}")
            return
        _api_version(document)
        if document.key("kind") is not None:
            self._add_object(document)
            return
        self.objects_alone = False
        for name, section in document.entries():
            self._add_section(document, name, section)

    def _add_section(self, document: At, name: str, section: At) -> None:
        if name in _LISTS:
            self.lists[name] += section.items() or ()
        elif name not in _VALUES:
            if name != "apiVersion":
                unknown_key(document, name, section.mark, _SECTIONS)
        elif name in self.single:
            distinct(((at, name) for at in (self.single[name], section)), "section")
        else:
            self.single[name] = section
            workflows = section.key("workflows") if name == "approvals" else None
            self.lists["workflows"] += (workflows.items() if workflows is not None else None) or ()

    def _add_object(self, document: At) -> None:
        kind, spec = document.key("kind"), document.key("spec")
        target = _kind(kind) if kind is not None else None
        for name, value in document.entries():
            if name not in _OBJECT_KEYS:
                unknown_key(document, name, value.mark, _OBJECT_KEYS)
        if target is None:
            return
        if spec is None or not isinstance(spec.node, Mapping):
            document.error("`spec` is required", "a mapping, the same as one entry of the list in gateway.yaml")
            return
        self.lists[target].append(_named(document, spec, spec.node))


def _kind(kind: At) -> str | None:
    word = kind.text()
    if word in _KINDS:
        return _KINDS[word]
    hint = did_you_mean(word, _KINDS) or f"one of: {', '.join(_KINDS)}"
    kind.error(f'unknown kind "{shortened(word)}"', hint)
    return None


def _named(document: At, spec: At, node: Mapping) -> At:
    """The spec with the name of its object, as an entry of the list has it."""
    metadata = document.key("metadata")
    name = metadata.key("name") if metadata is not None else None
    inner = spec.key("name")
    if name is None:
        document.error("`metadata.name` is required")
    elif inner is None:
        entries = {"name": Entry(name.mark, name.node), **node.entries}
        return At(Mapping(entries, node.mark), spec.mark, spec.path, spec.base, spec.report)
    elif inner.text() != name.text():
        inner.error("must be left out or equal to `metadata.name`")
    return spec


def _api_version(document: At) -> None:
    found = document.key("apiVersion")
    if found is None:
        document.error("`apiVersion` is required", f"write apiVersion: {API_VERSION}")
    elif not isinstance(found.node, Refused) and found.text() != API_VERSION:
        found.error(f'unknown apiVersion "{shortened(found.text())}"', f"write {API_VERSION}")


class Entries(msgspec.Struct):
    """The entries of the lists."""

    servers: list[tuple[At, Server]] = []
    policies: list[tuple[At, Policy]] = []
    workflows: list[tuple[At, Workflow]] = []


def read_object(document: At) -> Listed | None:
    """The entry that a document of Kubernetes stands for; None where an error was reported."""
    sections = _Sections()
    sections.add(document)
    read = _read(sections)
    found: tuple[Listed, ...] = (*read.servers, *read.policies, *read.workflows)
    return found[0] if found else None


def configuration(documents: Iterable[At], report: Report, objects: Entries | None = None) -> Configuration | None:
    """The configuration that the documents make together; None where an error was reported.

    `objects` are entries that come from Kubernetes, already read: where the documents say that they do, and none are
    given, what depends on them is not looked at. Nor, where the documents are nothing but objects, is what depends on
    the rest of a configuration.
    """
    sections = _Sections()
    for document in documents:
        sections.add(document)
    values = {name: read(at) for name, at in sections.single.items() for read in (_VALUES[name],)}
    entries = _both(_read(sections), objects)
    for name, what in (("servers", "server name"), ("policies", "policy name"), ("workflows", "workflow name")):
        _distinct_names(sections.lists[name], what)
    _distinct_paths(entries.servers)
    elsewhere = isinstance(values.get("source"), KubernetesOrigin)
    if elsewhere:
        _none_here(sections)
    if report.errors:
        return None
    before = len(report.warnings)
    made = _joined(values, sections, entries, report)
    if elsewhere and objects is None:
        report.warnings[before:] = [one for one in report.warnings[before:] if not one.path.startswith(_OF_RULES)]
    return made


_OF_RULES = ("approvals", "telemetry")
"""Sections whose cross checks speak of servers, rules and workflows."""


def _read(sections: _Sections) -> Entries:
    return Entries(
        _entries(sections.lists["servers"], parse.server),
        _entries(sections.lists["policies"], policy),
        _entries(sections.lists["workflows"], workflow),
    )


def _both(entries: Entries, objects: Entries | None) -> Entries:
    if objects is None:
        return entries
    return Entries(
        entries.servers + objects.servers,
        entries.policies + objects.policies,
        entries.workflows + objects.workflows,
    )


def _none_here(sections: _Sections) -> None:
    """What comes from Kubernetes is not in the file as well: one would have to win over the other."""
    for kind, name in _KINDS.items():
        for at in sections.lists[name][:1]:
            at.error(
                f"with `source: {{type: kubernetes}}` {name} are objects of kind {kind}",
                "apply it to the cluster and remove it here, or remove `source`",
            )


def _joined(values: Table[str, object], sections: _Sections, entries: Entries, report: Report) -> Configuration | None:
    kept = {**values, "approvals": _with_workflows(values.get("approvals"), entries.workflows)}
    made = _assembled(kept, entries.servers, entries.policies)
    servers, policies = dict(_places(entries.servers)), dict(_places(entries.policies))
    alone = sections.objects_alone
    if alone:
        _guarded(entries.servers)
    cross_check(made, sections.single, servers, policies, report, alone=alone)
    check_approvals(made, sections.single, dict(_places(entries.workflows)), policies, alone=alone)
    return None if report.errors else made


def _guarded(servers: list[tuple[At, Server]]) -> None:
    """What no sidecar sends to a server that an object names, whatever its own file says, is refused before."""
    for at, server in servers:
        said = guard.fault(Configuration(), server)
        if said is not None:
            at.error(said)


def _with_workflows(section: object, workflows: list[tuple[At, Workflow]]) -> Approvals:
    made = section if isinstance(section, Approvals) else Approvals()
    return msgspec.structs.replace(made, workflows=tuple(value for _, value in workflows))


def _assembled(
    values: Table[str, object], servers: list[tuple[At, Server]], policies: list[tuple[At, Policy]]
) -> Configuration:
    make: Callable[..., Configuration] = Configuration
    return make(
        servers=tuple(server for _, server in servers),
        policies=tuple(policy for _, policy in policies),
        **values,
    )


def _entries(entries: list[At], read: Reading[T]) -> list[tuple[At, T]]:
    pairs = [(at, read(at)) for at in entries]
    return [(at, value) for at, value in pairs if value is not None]


def _places(entries: list[tuple[At, T]]) -> Iterable[tuple[str, At]]:
    return ((value.name, at) for at, value in entries)


def _distinct_names(entries: list[At], what: str) -> None:
    names = (at.key("name") for at in entries)
    distinct(((at, at.text()) for at in names if at is not None and isinstance(at.node, Scalar)), what)


def _distinct_paths(servers: list[tuple[At, Server]]) -> None:
    first: dict[str, tuple[At, Server]] = {}
    for at, server in servers:  # those of one name have one path, which need not be said as well
        first.setdefault(server.name, (at, server))
    distinct(((at.key("path") or at, server.path) for at, server in first.values()), "server path")
