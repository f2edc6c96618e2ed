"""What a call asks for, as the conditions and detectors of rules look at it.

Made for each call that a rule with conditions is about; taken apart when the first one looks.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import RESOURCE, JsonObject, Request, Subject

if TYPE_CHECKING:
    from openmcp.sidecar.detection.finder import Finder

COMPLETE: Final = "completion/complete"
_WITH_ARGUMENTS: Final = frozenset(("tools/call", "prompts/get"))


class Search:
    """What the rules of an agent look for in requests, all in one pass."""

    __slots__ = ("_finders", "_set")

    def __init__(self, finders: "Iterable[Finder]") -> None:
        """At least one finder."""
        from openmcp.sidecar.detection.finder import FinderSet  # here, since few request rules look for something

        self._finders = tuple(finders)
        self._set = FinderSet(self._finders)

    def found_in(self, document: object) -> "list[Finder]":
        """The finders that find something in any text, number or key of a JSON value."""
        from openmcp.sidecar.detection.finder import texts

        finding = {index for text in texts(document) for index, _ in self._set.scan(text)}
        return [self._finders[index] for index in finding]


class Asked:
    """The material of one call.

    `arguments` is what conditions look at, anything but an object where they cannot be judged; `everything` is what
    is searched, once, by all rules that look for something.
    """

    __slots__ = ("_arguments", "_everything", "_found", "_merges")

    def __init__(self, arguments: object, everything: object, merges: bool = False) -> None:
        """`merges`: the arguments go with a resource's URI (completion), else the URI is all that is asked."""
        self._arguments = arguments
        self._everything = everything
        self._found: list[Finder] | None = None
        self._merges = merges

    def document(self, subject: Subject) -> object:
        """What conditions on this subject look at: a resource is judged by its own URI."""
        if subject.kind is not RESOURCE:
            return self._arguments
        if not self._merges:
            return {"uri": subject.name}
        arguments = self._arguments
        return {**arguments, "uri": subject.name} if isinstance(arguments, dict) else None

    def finds(self, finder: "Finder", search: Search) -> bool:
        """Whether a finder, one of those of `search`, finds anything anywhere in the message."""
        found = self._found
        if found is None:
            found = search.found_in(self._everything)
            self._found = found
        return any(one is finder for one in found)


def asked_by(call: Call) -> Asked:
    """What a message asks for. Its id goes to the server as well, and may say anything."""
    message = call.message
    method, params = message.method, message.params
    everything = [params, message.id if isinstance(message, Request) else "", call.beside]
    return Asked(arguments_of(method, params), everything, method == COMPLETE)


def asked_with(arguments: object, subjects: Iterable[Subject]) -> Asked:
    """The same without a message: of arguments (None: empty) and the names of what is touched."""
    names = [subject.name for subject in subjects]
    return Asked({} if arguments is None else arguments, [names, arguments])


def arguments_of(method: str, params: JsonObject) -> object:
    """What conditions look at, and approvals are for: the arguments of a tool or prompt, else the params."""
    if method in _WITH_ARGUMENTS:
        arguments = params.get("arguments")
        return {} if arguments is None else arguments
    if method == COMPLETE:
        argument = _object(params, "argument")
        return completed(params, argument.get("value") if argument is not None else None)
    return {key: value for key, value in params.items() if key != "_meta"}


def completed(params: JsonObject, value: object) -> object:
    """The arguments so far with this value for the one asked about; None where the message is not made like that."""
    context, argument = _object(params, "context"), _object(params, "argument")
    known = _object(context, "arguments") if context is not None else None
    name = argument.get("name") if argument is not None else None
    if known is None or argument is None or type(name) is not str:
        return None
    return {**known, name: value}


def _object(mapping: JsonObject, member: str) -> JsonObject | None:
    """A member that is an object, empty where it is absent; None where it is something else."""
    value = mapping.get(member)
    if value is None:
        return {}
    return value if type(value) is dict else None
