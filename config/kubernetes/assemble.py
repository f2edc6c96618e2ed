"""From the documents of a file and the objects of a namespace to one configuration, whatever single objects are worth.

Pure. An object with an error falls back to its last good version; where there is none, or that one has become wrong as
well, what it was about is denied: a server or a workflow is not there, a policy denies everything to those it names.
Each object falls at most twice, so there is always an end. In a clash between two objects the older one stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from openmcp.config.cursor import At
from openmcp.config.documents import API_VERSION, Entries, Listed, configuration, read_object
from openmcp.config.kubernetes.tree import document, node, place
from openmcp.config.load import Loaded
from openmcp.config.model import Policy, Server, Workflow
from openmcp.config.policies import policy
from openmcp.config.problems import ConfigurationError, Mark, Problem, Report, in_order

NOT_VALID: Final = "the policy for this is not valid: everything is denied until it is put right"
"""What agents are told where a policy is denied as a whole."""


class Object(msgspec.Struct, frozen=True):
    """An object of the API server, as far as it is of use. `spec` is JSON, which takes a tenth of the memory that it
    takes decoded; `created` is as Kubernetes writes it, so that texts sort by time."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    spec: bytes

    @property
    def place(self) -> str:
        """How marks and messages name it."""
        return place(self.kind, self.namespace, self.name)


class Parsed(msgspec.Struct, frozen=True, eq=False):
    """One version of an object, read by itself: an entry of a list (None: refused), and what was found."""

    object: Object
    entry: Listed | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


class Standing(IntEnum):
    """Which version of an object is in force."""

    CURRENT = 0
    PREVIOUS = 1
    DENIED = 2
    """None: what it was about is denied."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one object: accepted where it is in force as it is, and else why not."""

    object: Object
    standing: Standing
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the object is in force as it stands in the API server."""
        return self.standing is Standing.CURRENT


class Assembled(msgspec.Struct, frozen=True):
    """The outcome: a configuration, or the error of the file itself; the verdicts in the order of age; and what is
    good, by uid, for the next time."""

    result: Loaded | ConfigurationError
    verdicts: tuple[Verdict, ...]
    good: Mapping[str, Parsed]


def parse(found: Object, base: str) -> Parsed:
    """Read one object by itself. `base` is the folder that relative file names start from."""
    report = Report()
    metadata = {"name": found.name, "namespace": found.namespace}
    content = {"apiVersion": API_VERSION, "kind": found.kind, "metadata": metadata, "spec": _spec(found)}
    at = document(content, base, report)
    entry = None if report.errors else read_object(at)
    errors = tuple(in_order(report.errors))
    return Parsed(found, None if errors else entry, errors, tuple(report.warnings))


def assemble(documents: Sequence[At], parsed: Iterable[Parsed], good: Mapping[str, Parsed]) -> Assembled:
    """One configuration of the documents of a file (none: the objects are judged by themselves) and these objects.

    `good` is that of the last time. Blocks: a thousand objects take some tenths of a second.
    """
    work = _Work(documents, sorted(parsed, key=_age), good)
    while True:
        report = Report()
        made = configuration(work.documents(report), report, work.entries(report))
        if made is not None:
            result: Loaded | ConfigurationError = Loaded(made, tuple(in_order(report.warnings)), tuple(documents))
            break
        if not work.fall(report.errors):
            result = ConfigurationError(in_order(report.errors), in_order(report.warnings))
            break
    return Assembled(result, tuple(work.verdicts(report.warnings)), work.good())


def _age(parsed: Parsed) -> tuple[str, str, str]:
    found = parsed.object
    return found.created, found.kind, found.name


class _Work:
    """The objects while it is found out which of their versions go together."""

    def __init__(self, documents: Sequence[At], parsed: Sequence[Parsed], good: Mapping[str, Parsed]) -> None:
        self._documents = documents
        self._parsed = {one.object.place: one for one in parsed}
        self._good = good
        self._standing = dict.fromkeys(self._parsed, Standing.CURRENT)
        self._errors: dict[str, tuple[Problem, ...]] = {}
        for name, one in self._parsed.items():
            if one.entry is None:
                self._drop(name, one.errors)

    def documents(self, report: Report) -> list[At]:
        """The documents of the file, to be read anew."""
        return [_reporting(at, report) for at in self._documents]

    def entries(self, report: Report) -> Entries:
        """What is in force of each object."""
        found = Entries([], [], [])
        for name, one in self._parsed.items():
            listed = self._version(name, one)
            if listed is None:
                continue
            at, value = listed
            at = _reporting(at, report)
            if isinstance(value, Server):
                found.servers.append((at, value))
            elif isinstance(value, Policy):
                found.policies.append((at, value))
            elif isinstance(value, Workflow):
                found.workflows.append((at, value))
        return found

    def _version(self, name: str, one: Parsed) -> Listed | None:
        standing = self._standing[name]
        if standing is Standing.DENIED:
            return _denial(one.object) if one.object.kind == "MCPPolicy" else None
        version = one if standing is Standing.CURRENT else self._good[one.object.uid]
        return version.entry

    def fall(self, errors: Iterable[Problem]) -> bool:
        """Take the objects that have errors back by one version; false where none can be taken back any further."""
        by_object: dict[str, list[Problem]] = {}
        for error in errors:
            if self._standing.get(error.file, Standing.DENIED) is not Standing.DENIED:
                by_object.setdefault(error.file, []).append(error)
        for name, found in by_object.items():
            self._drop(name, tuple(found))
        return bool(by_object)

    def _drop(self, name: str, errors: tuple[Problem, ...]) -> None:
        if self._standing[name] is Standing.CURRENT and self._parsed[name].object.uid in self._good:
            self._standing[name] = Standing.PREVIOUS
        else:
            self._standing[name] = Standing.DENIED
        self._errors.setdefault(name, errors)

    def verdicts(self, warnings: Iterable[Problem]) -> Iterable[Verdict]:
        """What became of each object; `warnings` are those about how all of them fit."""
        by_object: dict[str, list[Problem]] = {}
        for warning in warnings:
            by_object.setdefault(warning.file, []).append(warning)
        for name, one in self._parsed.items():
            if self._standing[name] is Standing.CURRENT:
                found = (*one.warnings, *by_object.get(name, ()))
                yield Verdict(one.object, Standing.CURRENT, warnings=found)
            else:
                yield Verdict(one.object, self._standing[name], self._errors[name])

    def good(self) -> dict[str, Parsed]:
        """The last good version of each object that is still there, by its uid."""
        kept: dict[str, Parsed] = {}
        for name, one in self._parsed.items():
            if self._standing[name] is Standing.CURRENT:
                kept[one.object.uid] = one
            elif one.object.uid in self._good:
                kept[one.object.uid] = self._good[one.object.uid]
        return kept


def _reporting(at: At, report: Report) -> At:
    return msgspec.structs.replace(at, report=report)


def _spec(found: Object) -> Any:
    return msgspec.json.decode(found.spec)


def _denial(found: Object) -> Listed:
    """Instead of a policy that cannot be used: all is denied to the agents and servers that it names, as far as that
    much of it can be read, and else to all. A policy that surely is in mode `shadow` has no effect, so has this."""
    mark = Mark(found.place)
    spec = _spec(found)
    given: dict[str, Any] = spec if isinstance(spec, dict) else {}
    parts: dict[str, Any] = {
        "name": found.name,
        "servers": ["*"],
        "requests": [{"name": "not-valid", "action": "deny", "message": NOT_VALID}],
    }
    for key in ("servers", "agents", "mode"):
        if key in given and _reads(found, parts | {key: given[key]}):
            parts[key] = given[key]
    at = At(node(parts, mark, Report()), mark, "spec", "", Report())
    value = policy(at)
    assert value is not None, "its parts were read before"
    return at, value


def _reads(found: Object, parts: dict[str, Any]) -> bool:
    report = Report()
    mark = Mark(found.place)
    return policy(At(node(parts, mark, report), mark, "spec", "", report)) is not None and not report.errors
