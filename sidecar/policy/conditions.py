"""Conditions of rules on the arguments of a call: true, false, or not to be judged.

Three values, since an operator may meet what it is not made for (a number where it matches texts), and a path may
find several values of which some satisfy it. What that means is the rule's: an allow needs certainty, a denial
does not.
"""

import ipaddress
import json
from collections.abc import Callable, Iterable
from typing import Final

import re2

from openmcp.config.jsonpath import Getter, Lookalike, compile_path, keys_of, refuse_lookalikes
from openmcp.config.model import Condition, Operator, Value
from openmcp.config.patterns import options
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

Test = Callable[[object], int]
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

    __slots__ = ("_get", "_nothing", "_test", "_words")

    def __init__(self, condition: Condition) -> None:
        keys = keys_of(condition.path)
        self._get: Getter = compile_path(condition.path, exact=True) if keys is None else _chain(keys)
        self._nothing = TRUE if condition.op in _NEGATIVE else FALSE
        self._test = _test(condition)
        self._words = _words(condition)

    def judge(self, document: object) -> int:
        if type(document) is not dict:
            return UNSURE
        try:
            return self._state(self._get(document))
        except Exception:  # whatever an argument brings about, the rule decides what it means
            return UNSURE

    def _state(self, found: list[object]) -> int:
        if not found:
            return self._nothing
        state = self._test(found[0])
        for value in found[1:]:
            if self._test(value) != state:
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
        culprit = next((value for value in found if self._test(value) != TRUE), found[0])
        return f"found {len(found)} values, {seen(culprit)} among them"


def _chain(keys: tuple[str, ...]) -> Getter:
    """For the common `$.a.b`, what `compile_path` would make, here so that it is compiled."""
    names = [(key, len(key) if key.isascii() else 0, frozenset((key,)), frozenset((key.casefold(),))) for key in keys]

    def get(document: object) -> list[object]:
        for key, size, exactly, folded in names:
            if type(document) is not dict:
                return []
            for other in document:
                # Of other length, in ASCII both and without a NUL: no reader takes it for the key.
                if other != key and not (size and len(other) != size and other.isascii() and "\0" not in other):
                    refuse_lookalikes(document, exactly, folded)
                    break
            if key not in document:
                return []
            document = document[key]
        return [document]

    return get


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


def _test(condition: Condition) -> Test:
    """What judges one value that the path found."""
    op, value = condition.op, condition.value
    values = value if isinstance(value, tuple) else (value,)
    if op is Operator.MATCHES:
        return _matching(str(value))
    if op is Operator.GLOB:
        return _like(str(value))
    if op is Operator.CIDR:
        return _within([ipaddress.ip_network(str(network), strict=False) for network in values])
    if op is Operator.EXISTS or op is Operator.ABSENT:
        state = TRUE if op is Operator.EXISTS else FALSE
        return lambda found: state
    if op is Operator.EQ or op is Operator.IN:
        return _one_of(values, TRUE, FALSE)
    if op is Operator.NE or op is Operator.NOT_IN:
        return _one_of(values, FALSE, TRUE)
    assert type(value) in (int, float), "the parser lets nothing else through"
    assert isinstance(value, int | float)
    return _sized(value) if op is Operator.LENGTH_AT_MOST else _ordered(op, value)


def equal(one: object, other: Value) -> bool:
    """Equality that keeps types apart: texts, numbers (1 and 1.0 are one), booleans, null."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and one == other


def _one_of(values: tuple[Value, ...], among: int, else_: int) -> Test:
    def test(found: object) -> int:
        for value in values:
            if equal(found, value):
                return among
        return else_

    return test


def _matching(text: str) -> Test:
    pattern = re2.compile(text, options())

    def test(found: object) -> int:
        if not isinstance(found, str):
            return UNSURE
        return FALSE if pattern.fullmatch(found.encode()) is None else TRUE  # bytes: half the time of a text

    return test


def _like(glob: str) -> Test:
    globs = GlobSet((glob,))

    def test(found: object) -> int:
        if not isinstance(found, str):
            return UNSURE
        return TRUE if globs.matches(found) else FALSE

    return test


def _sized(most: float) -> Test:
    def test(found: object) -> int:
        if not isinstance(found, str | list):
            return UNSURE
        return TRUE if len(found) <= most else FALSE

    return test


def _ordered(op: Operator, bound: float) -> Test:
    def test(found: object) -> int:
        if isinstance(found, bool) or not isinstance(found, int | float):
            return UNSURE
        if op is Operator.LT:
            holds = found < bound
        elif op is Operator.LTE:
            holds = found <= bound
        elif op is Operator.GT:
            holds = found > bound
        else:
            holds = found >= bound
        return TRUE if holds else FALSE

    return test


def _within(networks: list[Network]) -> Test:
    """An address in one of the networks. `::ffff:10.0.0.1` is the host 10.0.0.1, and judged as both."""

    def test(found: object) -> int:
        if not isinstance(found, str) or "%" in found:
            return UNSURE
        try:
            address = ipaddress.ip_address(found)
        except ValueError:
            return UNSURE
        forms: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [address]
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            forms.append(address.ipv4_mapped)
        return TRUE if any(form in network for form in forms for network in networks) else FALSE

    return test
