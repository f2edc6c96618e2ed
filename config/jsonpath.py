"""JSONPath in the base grammar of jsonpath-ng, compiled to closures.

What the library parses is taken apart here; its own objects are not used to search, since they make an object for
each step, resolve `$` anywhere in a path, and cost a hundred times as much. The library is imported when the first
path is compiled.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jsonpath_ng.jsonpath import Descendants, JSONPath

Getter = Callable[[object], list[object]]
"""All values that a path finds in a JSON value, in document order. Raises nothing but, where asked to, `Lookalike`."""

Location = tuple[str | int, ...]
"""The keys and indices that lead from the root to a value."""

Locator = Callable[[object], list[Location]]
"""The places of all values that a path finds, in document order. Never raises."""

MAX_LENGTH: Final = 256
"""Characters of a path."""

_Place = tuple[Location, object]
_Step = Callable[[Iterable[_Place]], Iterator[_Place]]


class PathError(ValueError):
    """A path that cannot be used; the text says why, in words for the one who wrote it."""


class Lookalike(Exception):
    """An object has a key that a reader which ignores letter case, or cuts at NUL, takes for one of the path's."""


@lru_cache(maxsize=1024)
def compile_path(text: str, *, exact: bool = False) -> Getter:
    """What finds the values of a path. Raises `PathError`.

    With `exact` what it makes raises `Lookalike` rather than read another value than somebody else might.
    """
    steps, keys = _compiled(text, exact)
    if keys is not None and not exact:
        return _chain(keys)

    def get(document: object) -> list[object]:
        return [value for _, value in _walk(steps, document)]

    return get


@lru_cache(maxsize=1024)
def compile_locator(text: str) -> Locator:
    """What finds the places of the values of a path. Raises `PathError`."""
    steps, _ = _compiled(text, exact=False)

    def locate(document: object) -> list[Location]:
        return [location for location, _ in _walk(steps, document)]

    return locate


def _walk(steps: tuple[_Step, ...], document: object, location: Location = ()) -> Iterable[_Place]:
    places: Iterable[_Place] = ((location, document),)
    for step in steps:
        places = step(places)
    return places


def _chain(keys: tuple[str, ...]) -> Getter:
    """For the common `$.a.b`: keys alone."""
    if len(keys) == 1:
        (only,) = keys

        def get_one(document: object) -> list[object]:
            return [document[only]] if isinstance(document, dict) and only in document else []

        return get_one

    def get(document: object) -> list[object]:
        for key in keys:
            if not isinstance(document, dict) or key not in document:
                return []
            document = document[key]
        return [document]

    return get


def keys_of(text: str) -> tuple[str, ...] | None:
    """The keys of a path that consists of keys alone (`$.a.b`), None for any other. Raises `PathError`."""
    return _compiled(text, exact=False)[1]


def refuse_lookalikes(mapping: dict[str, object], names: frozenset[str], folded: frozenset[str]) -> None:
    """Raises `Lookalike` where a key of `mapping` is not one of `names` and may be read as one (`folded`: casefold)."""
    for key in mapping:
        if key not in names and (key.casefold() in folded or "\0" in key):
            raise Lookalike("a key there can be read as another one: it differs in letter case alone, or holds a NUL")


def _compiled(text: str, exact: bool) -> tuple[tuple[_Step, ...], tuple[str, ...] | None]:
    """The steps of a path, and its keys where it consists of keys alone."""
    tree = _parsed(text)
    compiler = _Compiler(_exact_members if exact else _members)
    compiler.add(tree, first=True)
    return tuple(compiler.steps), tuple(compiler.keys) if compiler.is_chain else None


def _parsed(text: str) -> "JSONPath":
    if len(text) > MAX_LENGTH:
        raise PathError(f"longer than {MAX_LENGTH} characters")
    if re.match(r"\s*@(?:$|[.\[])", text):
        raise PathError("`@` is not known here: a path begins with $")
    from jsonpath_ng.parser import parse  # here, since few configurations have a path

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of `|`, which the library drops in 2.0
            return parse(text)
    except Exception as error:  # the library raises Exceptions of its own, and ValueError for endless numbers
        raise PathError(_reason(text, str(error))) from None


def _reason(text: str, said: str) -> str:
    """The library's message in plain words."""
    if re.search(r"\?\s*\(|\[\s*\?", text):
        return "filters, [?(...)], are not part of the grammar: use more than one condition"
    if "Unexpected EOF" in said:
        return "a quote is not closed"
    if "near the end of string" in said:
        return "it ends too early"
    operator = re.search(r"named operator `(.*)` at", said)
    if operator is not None:
        return _no_operator(f"`{operator[1]}`")
    character = re.search(r"Unexpected character: (\S)", said)
    if character is not None:
        return f"{character[1]} cannot stand outside of quotes: a key with such characters is written ['key']"
    token = re.search(r"near token (\S+)", said)
    return f"{token[1]} cannot stand where it stands" if token is not None else "it cannot be read"


def _no_operator(name: str) -> str:
    return f"the operator {name} is not available here: only keys, indices, slices, *, .. and | are"


class _Compiler:
    """Turns a parsed path into steps, from left to right."""

    def __init__(self, members: "Callable[[tuple[str, ...]], _Step]") -> None:
        self.steps: list[_Step] = []
        self._members = members
        self.keys: list[str] = []
        self.is_chain = True
        self.descends = False

    def add(self, node: "JSONPath", *, first: bool) -> None:
        """Append the steps of `node`; `first`: it begins the path, where alone `$` may stand."""
        from jsonpath_ng import jsonpath as parsed

        if isinstance(node, parsed.Child):
            self.add(node.left, first=first)
            self.add(node.right, first=False)
        elif isinstance(node, parsed.Descendants):
            self._descend(node, first)
        elif isinstance(node, parsed._Union):
            left, right = self._branch(node.left, first), self._branch(node.right, first)
            self.descends = left.descends or right.descends
            self._append(_either(tuple(left.steps), tuple(right.steps)))
        elif not isinstance(node, parsed.Root):
            self._leaf(node)
        elif not first:
            raise PathError("$ can only begin a path; in a union write ($.a)|($.b), since | binds more than a dot")

    def _leaf(self, node: "JSONPath") -> None:
        from jsonpath_ng import jsonpath as parsed

        if isinstance(node, parsed.Fields):
            if len(node.fields) == 1 and self.is_chain:
                self.keys.append(node.fields[0])
                self.steps.append(self._members(node.fields))
            else:
                self._append(self._members(node.fields))
        elif isinstance(node, parsed.Index):
            self._append(_elements(node.indices))
        elif isinstance(node, parsed.Slice):
            if node.step == 0:
                raise PathError("the step of a slice cannot be 0")
            self._append(_slice(slice(node.start, node.end, node.step)))
        elif isinstance(node, parsed.Wildcard):
            self._append(_children)
        else:
            raise PathError(_no_operator(_OPERATORS.get(type(node).__name__, type(node).__name__)))

    def _append(self, step: _Step) -> None:
        self.is_chain = False
        self.steps.append(step)

    def _branch(self, node: "JSONPath", first: bool) -> "_Compiler":
        branch = _Compiler(self._members)
        branch.descends = self.descends
        branch.add(node, first=first)
        return branch

    def _descend(self, node: "Descendants", first: bool) -> None:
        self.add(node.left, first=first)
        if self.descends:
            raise PathError("only one .. in a path: each further one multiplies the work on nested data")
        self.descends = True
        self._append(_descendants)
        self.add(node.right, first=False)


_OPERATORS: Final = {
    "Where": "where",
    "WhereNot": "wherenot",
    "Parent": "`parent`",
    "This": "`this`",
    "_Intersect": "&",
}


def _members(names: tuple[str, ...]) -> _Step:
    def step(places: Iterable[_Place]) -> Iterator[_Place]:
        for location, value in places:
            if isinstance(value, dict):
                for name in names:
                    if name in value:
                        yield (*location, name), value[name]

    return step


def _exact_members(names: tuple[str, ...]) -> _Step:
    find, exactly, folded = _members(names), frozenset(names), frozenset(name.casefold() for name in names)

    def step(places: Iterable[_Place]) -> Iterator[_Place]:
        for place in places:
            if isinstance(place[1], dict):
                refuse_lookalikes(place[1], exactly, folded)
            yield from find((place,))

    return step


def _elements(indices: tuple[int, ...]) -> _Step:
    def step(places: Iterable[_Place]) -> Iterator[_Place]:
        for location, value in places:
            if isinstance(value, list):
                size = len(value)
                for index in indices:
                    if -size <= index < size:
                        yield (*location, index % size), value[index]

    return step


def _slice(part: slice) -> _Step:
    def step(places: Iterable[_Place]) -> Iterator[_Place]:
        for location, value in places:
            if isinstance(value, list):
                for index in range(len(value))[part]:
                    yield (*location, index), value[index]

    return step


def _children(places: Iterable[_Place]) -> Iterator[_Place]:
    for location, value in places:
        if isinstance(value, dict):
            for key, member in value.items():
                yield (*location, key), member
        elif isinstance(value, list):
            for index, element in enumerate(value):
                yield (*location, index), element


def _descendants(places: Iterable[_Place]) -> Iterator[_Place]:
    """Each place itself and all below it, a parent before its children."""
    stack = list(places)[::-1]
    while stack:
        place = stack.pop()
        yield place
        if isinstance(place[1], dict | list):
            stack.extend(reversed(list(_children((place,)))))


def _either(left: tuple[_Step, ...], right: tuple[_Step, ...]) -> _Step:
    def step(places: Iterable[_Place]) -> Iterator[_Place]:
        for location, value in places:
            for steps in (left, right):
                yield from _walk(steps, value, location)

    return step
