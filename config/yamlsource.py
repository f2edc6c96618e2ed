"""The one door to pyyaml: text to a tree that knows its lines, by a strict reading of YAML.

Built from parser events, since pyyaml's own constructors resolve YAML 1.1 (dates, `yes`, base 60), keep
the last of two equal keys and expand aliases. Here plain scalars are null, true, false, decimal integers,
floats or text (the YAML 1.2 core schema without its octal, hexadecimal, `.inf` and `.nan` forms);
duplicate keys, anchors, aliases, merge keys, tags and deep nesting are errors.
"""

import re
from collections.abc import Iterator

import msgspec
import yaml

from openmcp.config.problems import Mark, Report

MAX_DEPTH = 32
"""Levels of nesting; a configuration needs seven."""

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}(?:\.[0-9]{0,18}(?:[eE][-+]?[0-9]{1,2})?|[eE][-+]?[0-9]{1,2})")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

# libyaml: a configuration of 1,000 rules loads in 80 ms, with the parser written in Python in 380, and holds the
# interpreter from the event loop for as much less.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


_COLUMNS = "the keys of one mapping, and the dashes of one list, begin in one column; behind a quote nothing follows"
_COMMAS = "commas stand between what is in [ ] and { }, and each is closed"
_HINTS = {
    "alias": 'a glob that begins with * needs quotes: "*"',
    "cannot start any token": "indent with spaces, not tabs; a value that begins with @, % or ` needs quotes",
    "tab character": "indent with spaces, not tabs",
    "mapping values are not allowed": "a value that holds a colon and a blank needs quotes; the keys of one mapping "
    "begin in one column",
    "unknown escape character": "a text with a backslash stands in single quotes: '[0-9]+\\.txt'",
    "unexpected end of stream": "a quote is not closed",
    "block collection": _COLUMNS,
    "block mapping": _COLUMNS,
    "flow sequence": _COMMAS,
    "flow mapping": _COMMAS,
}
"""What to do, by words of libyaml's message."""


class Scalar(msgspec.Struct, frozen=True):
    """A single value; `text` is what the source says, before it was taken for a number or a constant."""

    value: str | int | float | bool | None
    text: str
    mark: Mark


class Sequence(msgspec.Struct, frozen=True):
    """A list of nodes."""

    items: "tuple[Node, ...]"
    mark: Mark


class Entry(msgspec.Struct, frozen=True):
    """One value of a mapping with the place of its key."""

    key: Mark
    node: "Node"


class Mapping(msgspec.Struct, frozen=True):
    """Keys to entries, in the order of the source."""

    entries: dict[str, Entry]
    mark: Mark


class Refused(msgspec.Struct, frozen=True):
    """Stands where a node was refused with an error of its own: nothing more is to be said about it."""

    mark: Mark


Node = Scalar | Sequence | Mapping | Refused


def read(data: bytes, file: str, report: Report) -> tuple[Node, ...]:
    """The documents of `data`, empty ones left out. Problems go to `report`; then what is returned may lack parts.

    Never raises, whatever the bytes are. `file` is the name that marks carry.
    """
    try:
        text = data.decode()  # a byte order mark is read over by the parser
    except UnicodeDecodeError as error:
        wrong = Mark(file, data.count(b"\n", 0, error.start) + 1)
        report.error(wrong, "", "not UTF-8 text", "save the file in UTF-8")
        return ()
    try:
        return tuple(_Builder(file, report).documents(yaml.parse(text, Loader=_LOADER)))
    except yaml.MarkedYAMLError as error:
        line: int | None = error.problem_mark.line + 1 if error.problem_mark else None
        report.error(Mark(file, line), "", f"not valid YAML: {_sentence(error)}", _hint(error))
    except yaml.YAMLError as error:  # a character that YAML does not allow, which has no mark
        report.error(Mark(file), "", f"not valid YAML: {str(error).splitlines()[0]}")
    except _TooDeep as error:
        report.error(error.mark, "", f"nested deeper than {MAX_DEPTH} levels")
    return ()


class _TooDeep(Exception):
    """Nothing more is read: the parser's time grows with the square of the depth."""

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


def _sentence(error: yaml.MarkedYAMLError) -> str:
    begun = error.context
    if begun and error.context_mark and error.problem_mark and error.context_mark.line != error.problem_mark.line:
        begun += f" (from line {error.context_mark.line + 1} on)"
    return " ".join(part for part in (begun, error.problem) if part)


def _hint(error: yaml.MarkedYAMLError) -> str | None:
    said = _sentence(error)
    return next((hint for words, hint in _HINTS.items() if words in said), None)


class _Open:
    """A mapping or list whose end has not been seen yet."""

    def __init__(self, mark: Mark, is_mapping: bool) -> None:
        self.mark = mark
        self.is_mapping = is_mapping
        self.items: list[Node] = []
        self.entries: dict[str, Entry] = {}
        self.key: Scalar | None = None
        self.awaits_key = is_mapping


class _Builder:
    """Events to nodes with a stack of its own: the interpreter's would overflow on hostile nesting."""

    def __init__(self, file: str, report: Report) -> None:
        self._file = file
        self._report = report
        self._stack: list[_Open] = []
        self._root: Node | None = None

    def documents(self, events: Iterator[yaml.Event]) -> Iterator[Node]:
        """One node for each document that holds anything."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._root = None
            elif isinstance(event, yaml.DocumentEndEvent):
                if self._root is not None and not _is_empty(self._root):
                    yield self._root
            else:
                self._event(event)

    def _event(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.NodeEvent):
            self._refuse_magic(event)
        if isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.ScalarEvent):
            self._put(_scalar(event, self._mark(event)))
        elif isinstance(event, yaml.AliasEvent):
            self._put(Refused(self._mark(event)))

    def _mark(self, event: yaml.Event) -> Mark:
        start = event.start_mark
        return Mark(self._file, start.line + 1 if start else None)

    def _refuse_magic(self, event: yaml.NodeEvent) -> None:
        mark = self._mark(event)
        if isinstance(event, yaml.AliasEvent):
            hint = f'to mean the text, put it in quotes: "*{event.anchor}"'
            self._report.error(mark, self._path(), f"the alias *{event.anchor} is not supported", hint)
        elif event.anchor is not None:
            hint = f'write the value out where it is wanted; to mean the text, put it in quotes: "&{event.anchor}"'
            self._report.error(mark, self._path(), f"the anchor &{event.anchor} is not supported", hint)
        tag = getattr(event, "tag", None)
        if tag is not None:
            hint = "a value in quotes is text, one without is what it looks like"
            self._report.error(mark, self._path(), f"the tag {tag} is not supported", hint)

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._stack) + 1 > MAX_DEPTH:
            raise _TooDeep(self._mark(event))
        self._stack.append(_Open(self._mark(event), isinstance(event, yaml.MappingStartEvent)))

    def _end(self) -> None:
        done = self._stack.pop()
        self._put(Mapping(done.entries, done.mark) if done.is_mapping else Sequence(tuple(done.items), done.mark))

    def _put(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if not top.is_mapping:
            top.items.append(node)
        elif top.awaits_key:
            top.key, top.awaits_key = self._key(node), False
        else:
            top.awaits_key = True
            if top.key is not None:
                self._store(top, top.key, node)

    def _key(self, node: Node) -> Scalar | None:
        if isinstance(node, Scalar):
            return node
        if not isinstance(node, Refused):
            self._report.error(node.mark, self._path(), "a key must be text")
        return None

    def _store(self, top: _Open, key: Scalar, node: Node) -> None:
        path = self._path()
        if key.text == "<<":
            self._report.error(key.mark, path, "merge keys (<<) are not supported", "write the keys out")
        elif key.text in top.entries:
            first = top.entries[key.text].key.line
            self._report.error(key.mark, path, f'duplicate key "{key.text}"', f"first at line {first}")
        else:
            top.entries[key.text] = Entry(key.mark, node)

    def _path(self) -> str:
        """The place being built, as `servers[0].tls`."""
        path = ""
        for level in self._stack:
            if not level.is_mapping:
                path += f"[{len(level.items)}]"
            elif level.key is not None and not level.awaits_key:
                path += f".{level.key.text}" if path else level.key.text
        return path


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _scalar(event: yaml.ScalarEvent, mark: Mark) -> Scalar:
    text: str = event.value
    plain = event.implicit[0]  # not quoted and not a block
    return Scalar(_value(text) if plain else text, text, mark)


def _value(text: str) -> str | int | float | bool | None:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
