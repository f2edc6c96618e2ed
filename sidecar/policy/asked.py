"""What a call asks for, as the conditions and detectors of rules look at it.

Made for each call that a rule with conditions is about; taken apart when the first one looks.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import RESOURCE, JsonObject, Subject

COMPLETE: Final = "completion/complete"
_WITH_ARGUMENTS: Final = frozenset(("tools/call", "prompts/get"))


class Finds(Protocol):
    """What looks for something in the texts of a document: the detectors and patterns of a rule."""

    def first(self, document: object) -> str | None:
        """What was found first in any text or key; None: nothing."""


class Asked:
    """The material of one call.

    `arguments` is what conditions look at, anything but an object where they cannot be judged; `everything` is what
    is searched for finds.
    """

    __slots__ = ("_arguments", "_everything", "_found", "_merges")

    def __init__(self, arguments: object, everything: object, merges: bool = False) -> None:
        """`merges`: the arguments go with a resource's URI (completion), else the URI is all that is asked."""
        self._arguments = arguments
        self._everything = everything
        self._found: dict[int, str | None] = {}
        self._merges = merges

    def document(self, subject: Subject) -> object:
        """What conditions on this subject look at: a resource is judged by its own URI."""
        if subject.kind is not RESOURCE:
            return self._arguments
        if not self._merges:
            return {"uri": subject.name}
        arguments = self._arguments
        return {**arguments, "uri": subject.name} if isinstance(arguments, dict) else None

    def finds(self, finder: Finds) -> str | None:
        """What a finder finds anywhere in the message; it looks once for each call."""
        key = id(finder)
        if key not in self._found:
            self._found[key] = finder.first(self._everything)
        return self._found[key]


def asked_by(call: Call) -> Asked:
    """What a message asks for."""
    params = call.message.params
    return Asked(_arguments(call.method, params), params, call.method == COMPLETE)


def asked_with(arguments: object, subjects: Iterable[Subject]) -> Asked:
    """The same without a message: of arguments (None: empty) and the names of what is touched."""
    names = [subject.name for subject in subjects]
    return Asked({} if arguments is None else arguments, [names, arguments])


def _arguments(method: str, params: JsonObject) -> object:
    if method in _WITH_ARGUMENTS:
        arguments = params.get("arguments")
        return {} if arguments is None else arguments
    if method == COMPLETE:
        return _completed(params)
    return {key: value for key, value in params.items() if key != "_meta"}


def _completed(params: JsonObject) -> object:
    """The arguments so far with the one that is being completed; None where the message is not made like that."""
    context, argument = _object(params, "context"), _object(params, "argument")
    known = _object(context, "arguments") if context is not None else None
    name = argument.get("name") if argument is not None else None
    if known is None or argument is None or type(name) is not str:
        return None
    return {**known, name: argument.get("value")}


def _object(mapping: JsonObject, member: str) -> JsonObject | None:
    """A member that is an object, empty where it is absent; None where it is something else."""
    value = mapping.get(member)
    if value is None:
        return {}
    return value if type(value) is dict else None
