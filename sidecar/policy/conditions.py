"""Conditions of rules on the arguments of a call: true, false, or not to be judged.

Three values, since an operator may meet what it is not made for (a number where it matches texts), and a path may
find several values of which some satisfy it. What that means is the rule's: an allow needs certainty, a denial
does not.
"""

import ipaddress
import json
from collections.abc import Iterable
from typing import Any, Final

import re2

from openmcp.config.jsonpath import Getter, Lookalike, compile_path, keys_of, refuse_lookalikes
from openmcp.config.model import Condition, Operator, Value
from openmcp.config.patterns import MAX_MEMORY, options
from openmcp.sidecar.policy.globs import GlobSet

FALSE: Final = 0
TRUE: Final = 1
UNSURE: Final = 2

CLIP: Final = 80
"""Characters of a value that an explanation shows."""

LARGEST: Final = 10**CLIP
"""From here on a number is not written out: Python does not even write one of thousands of digits."""

DOUBT: Final = " cannot be judged:"

_NEGATIVE: Final = frozenset((Operator.NE, Operator.NOT_IN, Operator.ABSENT))
"""Operators that hold where their path finds nothing."""

_NOTHING: Final = object()
"""What a path finds where there is nothing; null is something."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Conditions:
    """All conditions of one rule; every one has to hold."""

    __slots__ = ("_conditions",)

    def __init__(self, conditions: Iterable[Condition]) -> None:
        self._conditions = [_Condition(condition) for condition in conditions]

    def judge(self, document: object) -> int:
        """FALSE if any is false, else UNSURE if any is, else TRUE. Never raises."""
        state = TRUE
        for condition in self._conditions:
            one = condition.judge(document)
            if one == FALSE:
                return FALSE
            if one == UNSURE:
                state = UNSURE
        return state

    def why(self, document: object) -> str:
        """The conditions that do not hold, in words, with what was found. Never raises."""
        return "; ".join([words for one in self._conditions if (words := one.why(document))])


class _Condition:
    """One compiled condition."""

    __slots__ = ("_chain", "_get", "_nothing", "_test", "_words")

    def __init__(self, condition: Condition) -> None:
        keys = keys_of(condition.path)
        self._chain: _Chain | None = _Chain(keys) if keys is not None else None
        self._get: Getter = compile_path(condition.path, exact=True)
        self._nothing: int = TRUE if condition.op in _NEGATIVE else FALSE
        self._test = _test(condition)
        self._words = _words(condition)

    def judge(self, document: object) -> int:
        if type(document) is not dict:
            return UNSURE
        try:
            chain = self._chain
            if chain is None:
                return self._state(self._get(document))
            value = chain.find(document)
            return self._nothing if value is _NOTHING else self._test.judge(value)
        except Exception:  # whatever an argument brings about, the rule decides what it means
            return UNSURE

    def _state(self, found: list[object]) -> int:
        if not found:
            return self._nothing
        state = self._test.judge(found[0])
        for value in found[1:]:
            if self._test.judge(value) != state:
                return UNSURE
        return state

    def why(self, document: object) -> str:
        """Why it does not hold; the empty text where it does."""
        if type(document) is not dict:
            return f"{self._words}{DOUBT} the arguments are {seen(document)}, not an object"
        try:
            found = self._get(document)
            state = self._state(found)
            if state == TRUE:
                return ""
            return f"{self._words}{DOUBT if state == UNSURE else ':'} {self._found(found)}"
        except Lookalike as error:
            return f"{self._words}{DOUBT} {error}"
        except Exception:  # as above
            return f"{self._words}{DOUBT} an error"

    def _found(self, found: list[object]) -> str:
        if not found:
            return "found nothing"
        if len(found) == 1:
            return f"found {seen(found[0])}"
        culprit = next((value for value in found if self._test.judge(value) != TRUE), found[0])
        return f"found {len(found)} values, {seen(culprit)} among them"


class _Chain:
    """The common path `$.a.b`: what `compile_path` would find, in compiled code and without a list."""

    __slots__ = ("_names",)

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._names = [(key, frozenset((key,)), frozenset((key.casefold(),))) for key in keys]

    def find(self, document: object) -> object:
        """The value, or `_NOTHING`. Raises `Lookalike`."""
        for key, exactly, folded in self._names:
            if type(document) is not dict:
                return _NOTHING
            seen = (key, tuple(document))
            if seen not in _clear:
                refuse_lookalikes(document, exactly, folded)
                _remember(seen)
            if key not in document:
                return _NOTHING
            document = document[key]
        return document


def _remember(clear: tuple[str, tuple[str, ...]]) -> None:
    if sum(map(len, clear[1])) <= _REMEMBERED_CHARACTERS and len(clear[1]) <= _REMEMBERED_CHARACTERS:
        if len(_clear) >= _REMEMBERED:
            _clear.clear()
        _clear.add(clear)


_REMEMBERED: Final = 1024
_REMEMBERED_CHARACTERS: Final = 256
_clear: Final[set[tuple[str, tuple[str, ...]]]] = set()
"""Names in paths and the keys of an object of which none can be read as that name: agents send the same few sets."""


def seen(value: object) -> str:
    """A JSON value for an explanation: one line, no control characters, at most `CLIP` characters of it."""
    if isinstance(value, str):
        text = json.dumps(value[: CLIP + 1], ensure_ascii=False)
    elif isinstance(value, dict):
        return f"an object with {len(value)} {'key' if len(value) == 1 else 'keys'}"
    elif isinstance(value, list):
        return f"a list of {len(value)}"
    elif isinstance(value, int) and abs(value) >= LARGEST:
        return f"a number of more than {CLIP} digits"
    else:
        text = json.dumps(value)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= CLIP else f"{text[: CLIP - 1]}…"


def _words(condition: Condition) -> str:
    if condition.op in (Operator.EXISTS, Operator.ABSENT):
        return f"{condition.path} {condition.op.value}"
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    shown = ", ".join(map(seen, values[:5])) + (", …" if len(values) > 5 else "")
    listed = f"[{shown}]" if isinstance(condition.value, tuple) else shown
    return f"{condition.path} {condition.op.value} {listed}"


def _test(condition: Condition) -> "_Test":
    """What judges one value that the path found."""
    op, value = condition.op, condition.value
    values = value if isinstance(value, tuple) else (value,)
    if op is Operator.MATCHES:
        return _Matches(str(value))
    if op is Operator.GLOB:
        return _Like(str(value))
    if op is Operator.CIDR:
        return _Within([ipaddress.ip_network(str(network), strict=False) for network in values])
    if op is Operator.EXISTS or op is Operator.ABSENT:
        return _Always(TRUE if op is Operator.EXISTS else FALSE)
    if op is Operator.EQ or op is Operator.IN:
        return _OneOf(values, TRUE, FALSE)
    if op is Operator.NE or op is Operator.NOT_IN:
        return _OneOf(values, FALSE, TRUE)
    assert type(value) in (int, float), "the parser lets nothing else through"
    assert isinstance(value, int | float)
    return _Sized(value) if op is Operator.LENGTH_AT_MOST else _Ordered(op, value)


def equal(one: object, other: Value) -> bool:
    """Equality that keeps types apart: texts, numbers (1 and 1.0 are one), booleans, null."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and one == other


def alike(one: object, other: Value) -> bool:
    """Whether a server that converts arguments may take `one` for `other`, which is of another type: `"102"` for 102.

    Most do (Python's pydantic, JavaScript's `Number` and `Boolean`), each a little differently; this is all of them.
    """
    if isinstance(other, bool):
        return isinstance(one, str | int | float) and not isinstance(one, bool)  # "false" is true to JavaScript
    if type(one) is type(other) or other == "":
        return False
    number = _number(one)
    return number is not None and number == _number(other)


_READ_AS: Final = {
    "": 0,
    **dict.fromkeys(("true", "t", "yes", "y", "on"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "off"), 0),
}
_LONGEST_WORD: Final = 5


def _number(value: object) -> object:  # declared as a float, a whole number would become one once it is compiled
    """The number that a number, text or boolean is read as; None where there is none."""
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return None
    text = value.strip()
    if len(text) <= _LONGEST_WORD and (word := text.lower()) in _READ_AS:
        return _READ_AS[word]
    for read in (_whole, float):
        try:
            return read(text)
        except ValueError:
            pass
    return None


def _whole(text: str) -> int:
    return int(text.lstrip("0") or "0") if text.isdecimal() else int(text, 0)


class _Test:
    """Judges one value; a class for each operator, since compiled code calls methods faster than closures."""

    def judge(self, found: object) -> int:
        """TRUE, FALSE or UNSURE."""
        raise NotImplementedError


class _Always(_Test):
    def __init__(self, state: int) -> None:
        self._state = state

    def judge(self, found: object) -> int:
        return self._state


class _OneOf(_Test):
    def __init__(self, values: tuple[Value, ...], among: int, otherwise: int) -> None:
        self._values = values
        self._kind = type(values[0]) if len({type(value) for value in values}) == 1 else None
        self._among = among
        self._otherwise = otherwise

    def judge(self, found: object) -> int:
        for value in self._values:
            if equal(found, value):
                return self._among
        if type(found) is self._kind:
            return self._otherwise
        for value in self._values:
            if alike(found, value):
                return UNSURE
        return self._otherwise


class _Matches(_Test):
    """The whole of a text. A set of patterns needs half the time of a single one, since it tells no positions."""

    def __init__(self, text: str) -> None:
        self._pattern: Any = re2.compile(text, options())
        self._set: Any = _set_of(text)

    def judge(self, found: object) -> int:
        if not isinstance(found, str):
            return UNSURE
        if self._set is not None:
            matching = self._set.Match(found.encode())
            if 1 in matching:  # else out of memory: everything matches the second pattern
                return TRUE if 0 in matching else FALSE
        return FALSE if self._pattern.fullmatch(found) is None else TRUE


def _set_of(text: str) -> Any:
    """A pattern and one that matches everything, or None where they do not fit into one automaton."""
    room = options()
    room.max_mem = 4 * MAX_MEMORY
    made = re2.Set.FullMatchSet(room)
    made.Add(text)
    made.Add("(?s).*")
    try:
        made.Compile()
    except re2.error:
        return None
    return made


class _Like(_Test):
    def __init__(self, glob: str) -> None:
        self._globs = GlobSet((glob,))

    def judge(self, found: object) -> int:
        if not isinstance(found, str):
            return UNSURE
        return TRUE if self._globs.matches(found) else FALSE


class _Sized(_Test):
    def __init__(self, most: float) -> None:
        self._most = most

    def judge(self, found: object) -> int:
        if not isinstance(found, str | list):
            return UNSURE
        return TRUE if len(found) <= self._most else FALSE


class _Ordered(_Test):
    def __init__(self, op: Operator, bound: float) -> None:
        self._below = op is Operator.LT or op is Operator.LTE
        self._equal = op is Operator.LTE or op is Operator.GTE
        self._bound = bound

    def judge(self, found: object) -> int:
        if isinstance(found, bool) or not isinstance(found, int | float):
            return UNSURE
        if found == self._bound:
            return TRUE if self._equal else FALSE
        return TRUE if (found < self._bound) == self._below else FALSE


class _Within(_Test):
    """An address in one of the networks. `::ffff:10.0.0.1` is the host 10.0.0.1, and judged as both."""

    def __init__(self, networks: list[Network]) -> None:
        self._networks = networks

    def judge(self, found: object) -> int:
        if not isinstance(found, str) or "%" in found:
            return UNSURE
        try:
            address = ipaddress.ip_address(found)
        except ValueError:
            return UNSURE
        forms: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [address]
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            forms.append(address.ipv4_mapped)
        return TRUE if any(form in network for form in forms for network in self._networks) else FALSE
