"""Walking the tree of a source: a node with its path, read as this or that type, every refusal reported.

A reading gives its value, or None after it has reported why not; a `Shape` is a table from keys to
readings. So one pass finds every error, and nothing that was refused reaches a value of the model.
Readings made of others are objects that show their parts: `kubernetes.crds` makes schemas of them.
"""

from collections.abc import Callable, Iterable
from collections.abc import Mapping as Table
from typing import Generic, TypeVar

import msgspec

from openmcp.config.problems import Mark, Report, did_you_mean
from openmcp.config.yamlsource import Entry, Mapping, Node, Refused, Scalar, Sequence

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_ITEMS = 1000
"""Entries of a list or mapping; Kubernetes wants to know how much work checking an object can be."""
MAX_TEXT = 4096
"""Characters of a text."""


class At(msgspec.Struct, frozen=True):
    """A node and the path that leads to it.

    `mark` is the place of its key where it has one; `base` the folder that relative file names start from.
    """

    node: Node
    mark: Mark
    path: str
    base: str
    report: Report

    def error(self, message: str, hint: str | None = None) -> None:
        """Report an error about this node."""
        self.report.error(self.mark, self.path, message, hint)

    def warn(self, message: str, hint: str | None = None) -> None:
        """Report a warning about this node."""
        self.report.warn(self.mark, self.path, message, hint)

    def expected(self, what: str, hint: str | None = None) -> None:
        """Report that the node is of another type than wanted, naming both."""
        if not isinstance(self.node, Refused):
            self.error(f"expected {what}, found {describe(self.node)}", hint)

    def key(self, name: str) -> "At | None":
        """The value of a key, None where this is no mapping or has no such key. Reports nothing."""
        if not isinstance(self.node, Mapping) or name not in self.node.entries:
            return None
        return self._below(name, self.node.entries[name])

    def entries(self) -> "list[tuple[str, At]]":
        """All keys of a mapping with their values; of anything else none."""
        if not isinstance(self.node, Mapping):
            return []
        return [(name, self._below(name, entry)) for name, entry in self.node.entries.items()]

    def _below(self, name: str, entry: Entry) -> "At":
        path = f"{self.path}.{name}" if self.path else name
        return At(entry.node, entry.key, path, self.base, self.report)

    def items(self) -> "list[At] | None":
        """The entries of a list; None, reported, for anything else."""
        if isinstance(self.node, Sequence):
            nodes = enumerate(self.node.items)
            return [At(node, node.mark, f"{self.path}[{i}]", self.base, self.report) for i, node in nodes]
        is_text = isinstance(self.node, Scalar) and isinstance(self.node.value, str)
        self.expected("a list", f'write ["{self.text()}"]' if is_text else None)
        return None

    def text(self) -> str:
        """What the source says where this is a scalar, else the empty text. Reports nothing."""
        return self.node.text if isinstance(self.node, Scalar) else ""


Reading = Callable[[At], T_co | None]
Pairs = tuple[tuple[str, T], ...]


def describe(node: Node) -> str:
    """A node as errors name it: `a list`, `the text "x"`, `the number 5`, `nothing`."""
    if isinstance(node, Sequence):
        return "a list"
    if not isinstance(node, Scalar):
        return "a mapping"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return f"the boolean {node.text}"
    if isinstance(node.value, str):
        return f'the text "{shortened(node.value)}"'
    return f"the number {node.text}"


def shortened(text: str) -> str:
    """Text for an error message: one line, no control characters, at most 60 characters."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:61])
    return shown if len(shown) <= 60 else shown[:57] + "..."


def string(at: At) -> str | None:
    """Text of one line that is not empty; the line end of a YAML block is left out."""
    return text(at, MAX_TEXT)


def text(at: At, most: int) -> str | None:
    """The same with at most so many characters."""
    if not isinstance(at.node, Scalar) or not isinstance(at.node.value, str):
        is_scalar = isinstance(at.node, Scalar) and at.node.value is not None
        at.expected("text", f'put it in quotes: "{at.text()}"' if is_scalar else None)
        return None
    value = at.node.value.rstrip("\n")
    if not value.strip():
        at.error("must not be empty")
        return None
    if not value.isprintable():
        at.error(f'must be one line without control characters, found "{shortened(value)}"')
        return None
    if len(value) > most:
        at.error(f"a text of {len(value)} characters", f"at most {most}")
        return None
    return value


def boolean(at: At) -> bool | None:
    """`true` or `false`, nothing else."""
    if isinstance(at.node, Scalar) and isinstance(at.node.value, bool):
        return at.node.value
    words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    meant = words.get(at.text().lower())
    at.expected("true or false", f"write {meant}" if meant else None)
    return None


class integer:
    """A whole number within bounds, both included."""

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest

    def __call__(self, at: At) -> int | None:
        """The number, None where it was refused."""
        value = at.node.value if isinstance(at.node, Scalar) else None
        if isinstance(value, bool) or not isinstance(value, int):
            at.expected("a whole number")
            return None
        if not self.lowest <= value <= self.highest:
            at.error(f"must be between {self.lowest} and {self.highest}, found {value}")
            return None
        return value


class choice:
    """One of `words`."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)

    def __call__(self, at: At) -> str | None:
        """The word, None where it was refused."""
        value = string(at)
        if value is None or value in self.words:
            return value
        name = at.path.rpartition(".")[2]
        hint = did_you_mean(value, self.words) or f"one of: {', '.join(self.words)}"
        at.error(f'unknown {name} "{shortened(value)}"', hint)
        return None


class ListOf(Generic[T]):
    """See `list_of`."""

    def __init__(self, item: Reading[T], most: int) -> None:
        self.item, self.most = item, most

    def __call__(self, at: At) -> tuple[T, ...] | None:
        """The values, None where one was refused."""
        items = at.items()
        if items is None:
            return None
        if len(items) > self.most:
            at.error(f"a list of {len(items)} entries", f"at most {self.most}")
            return None
        values = [self.item(item) for item in items]
        kept = tuple(value for value in values if value is not None)
        return kept if len(kept) == len(values) else None


def list_of(item: Reading[T], most: int = MAX_ITEMS) -> Reading[tuple[T, ...]]:
    """A list of at most `most` entries, all of them read alike."""
    return ListOf(item, most)


class unique(Generic[T]):
    """A list no two of whose entries, or their values of `key`, are equal; `what` names one of them in errors."""

    def __init__(self, entries: Reading[tuple[T, ...]], what: str, key: str | None = None) -> None:
        self.entries, self._what, self.key = entries, what, key

    def __call__(self, at: At) -> tuple[T, ...] | None:
        """The values, None where one was refused."""
        values = self.entries(at)
        if values is not None:
            items = at.items() or ()
            compared = items if self.key is None else [found for item in items if (found := item.key(self.key))]
            distinct(((item, item.text()) for item in compared), self._what)
        return values


def unknown_key(at: At, name: str, mark: Mark, known: Iterable[str]) -> None:
    """Report a key of the mapping `at` that is not one of `known`."""
    names = tuple(known)
    hint = did_you_mean(name, names) or f"known here: {', '.join(names)}"
    at.report.error(mark, at.path, f'unknown key "{shortened(name)}"', hint)


class Shape(Generic[T]):
    """A mapping with fixed keys, read into `make(**values)`, the keys in snake_case.

    `ignored` are keys that another reading understands.
    """

    def __init__(
        self,
        make: Callable[..., T],
        keys: "Table[str, Reading[object]]",
        *,
        required: Iterable[str] = (),
        ignored: Iterable[str] = (),
    ) -> None:
        self._make = make
        self.keys = keys
        self.required = tuple(required)
        self._ignored = tuple(ignored)

    def __call__(self, at: At) -> T | None:
        """The value, or None where any part was refused."""
        if not isinstance(at.node, Mapping):
            at.expected("a mapping")
            return None
        before = len(at.report.errors)
        self._required_keys(at)
        values: dict[str, object] = {}
        for name, value in at.entries():
            if name in self.keys:
                values[_snake(name)] = self.keys[name](value)
            elif name not in self._ignored:
                unknown_key(at, name, value.mark, (*self.keys, *self._ignored))
        refused = len(at.report.errors) > before or None in values.values()
        return None if refused else self._make(**values)

    def _required_keys(self, at: At) -> None:
        for name in self.required:
            if at.key(name) is None:
                at.error(f"`{name}` is required")


def tagged(shapes: "Table[str, Reading[T]]") -> Reading[T]:
    """A mapping whose `type` says which shape it has."""
    return Tagged(shapes)


class Tagged(Generic[T]):
    """See `tagged`."""

    def __init__(self, shapes: "Table[str, Reading[T]]") -> None:
        self.shapes = shapes
        self._type = choice(shapes)

    def __call__(self, at: At) -> T | None:
        """The value, or None where any part was refused."""
        if not isinstance(at.node, Mapping):
            example = at.text() if at.text() in self.shapes else next(iter(self.shapes))
            at.expected("a mapping", f"write {{type: {example}}}")
            return None
        kind = at.key("type")
        if kind is None:
            at.error("`type` is required", f"one of: {', '.join(self.shapes)}")
            return None
        word = self._type(kind)
        return None if word is None else self.shapes[word](at)


class some(Generic[T]):
    """A list that must not be empty; `why` is told where it is."""

    def __init__(self, entries: Reading[tuple[T, ...]], why: str) -> None:
        self.entries, self.why = entries, why

    def __call__(self, at: At) -> tuple[T, ...] | None:
        """The values, None where one was refused or there are none."""
        values = self.entries(at)
        if values == ():
            at.error("an empty list", self.why)
            return None
        return values


class pairs(Generic[T]):
    """A mapping from any keys to values that are read alike, not empty; `fault` says what is wrong with a key."""

    def __init__(self, value: Reading[T], fault: Callable[[str], str | None] = lambda key: None) -> None:
        self.value, self._fault = value, fault

    def __call__(self, at: At) -> Pairs[T] | None:
        """The pairs in the order of the source, None where one was refused."""
        if not isinstance(at.node, Mapping):
            at.expected("a mapping")
            return None
        if not 1 <= len(at.node.entries) <= MAX_ITEMS:
            empty = not at.node.entries
            what = "an empty mapping" if empty else f"a mapping of {len(at.node.entries)} keys"
            at.error(what, "remove the key or fill it" if empty else f"at most {MAX_ITEMS}")
            return None
        kept = []
        for key, entry in at.entries():
            wrong = self._fault(key) if key.strip() and key.isprintable() else "text of one line, not empty"
            if wrong is not None:
                at.report.error(entry.mark, at.path, f'not a key that can stand here: "{shortened(key)}"', wrong)
            value = self.value(entry)
            if value is not None and wrong is None:
                kept.append((key, value))
        return tuple(kept) if len(kept) == len(at.node.entries) else None


def distinct(named: "Iterable[tuple[At, str]]", what: str) -> None:
    """Report every text that was seen before, with the place of the first."""
    first: dict[str, At] = {}
    for at, text in named:
        seen = first.setdefault(text, at)
        if seen is not at:
            same_file = seen.mark.file == at.mark.file
            line = f"line {seen.mark.line}" if seen.mark.line is not None else seen.path
            place = line if same_file else str(seen.mark)
            at.error(f'duplicate {what} "{shortened(text)}"', f"first at {place}")


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
