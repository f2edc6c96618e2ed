"""Conditions of one rule that no argument can meet together."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any

import re2

from openmcp.config.model import Condition, Operator, Value
from openmcp.config.patterns import options
from openmcp.identity.globs import matches

_NEGATIVE = frozenset((Operator.NE, Operator.NOT_IN, Operator.ABSENT))
_NUMERIC: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.LT: lt,
    Operator.LTE: le,
    Operator.GT: gt,
    Operator.GTE: ge,
}
_TEXTUAL = frozenset((Operator.MATCHES, Operator.GLOB, Operator.CIDR))
_EQUAL = frozenset((Operator.EQ, Operator.IN))


def contradiction(conditions: Iterable[Condition]) -> str | None:
    """A path whose conditions no value can meet together, None where there is none or it takes more to see it."""
    by_path: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_path.setdefault(condition.path, []).append(condition)
    return next((path for path, given in by_path.items() if len(given) > 1 and not _possible(given)), None)


def _possible(given: Sequence[Condition]) -> bool:
    operators = {condition.op for condition in given}
    if operators <= _NEGATIVE:
        return True  # where nothing is found all of them hold
    if Operator.ABSENT in operators:
        return False
    wanted = [value for condition in given if condition.op in _EQUAL for value in _values(condition)]
    if operators & _EQUAL:
        return any(all(_holds(condition, value) for condition in given) for value in wanted)
    if operators & _NUMERIC.keys() and operators & (_TEXTUAL | {Operator.LENGTH_AT_MOST}):
        return False
    return _is_range([condition for condition in given if condition.op in _NUMERIC])


def _is_range(bounds: Sequence[Condition]) -> bool:
    """Whether a number lies within all bounds."""
    lowest = max((_bound(one) for one in bounds if one.op in (Operator.GT, Operator.GTE)), default=(float("-inf"), 0))
    highest = min((_bound(one) for one in bounds if one.op in (Operator.LT, Operator.LTE)), default=(float("inf"), 0))
    return lowest <= highest


def _bound(condition: Condition) -> tuple[float, int]:
    """A bound such that it is crossed where the lowest is more than the highest: an open one lies further in."""
    inwards = {Operator.GT: 1, Operator.LT: -1}.get(condition.op, 0)
    assert isinstance(condition.value, int | float)
    return condition.value, inwards


def _values(condition: Condition) -> tuple[Value, ...]:
    return condition.value if isinstance(condition.value, tuple) else (condition.value,)


def _holds(condition: Condition, value: Value) -> bool:
    """Whether a value meets a condition, as the engine has it."""
    operator = condition.op
    if operator in _EQUAL:
        return any(_equal(value, other) for other in _values(condition))
    if operator in _NEGATIVE:
        return not any(_equal(value, other) for other in _values(condition))
    if operator in _NUMERIC:
        return _is_number(value) and _NUMERIC[operator](value, condition.value)
    if operator is Operator.EXISTS:
        return True
    return isinstance(value, str) and _fits(operator, condition, value)


def _fits(operator: Operator, condition: Condition, text: str) -> bool:
    wanted = _values(condition)
    if operator is Operator.LENGTH_AT_MOST:
        return len(text) <= int(str(wanted[0]))
    if operator is Operator.MATCHES:
        return re2.compile(str(wanted[0]), options()).fullmatch(text) is not None
    if operator is Operator.GLOB:
        return matches(str(wanted[0]), text)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    forms = (address,) if mapped is None else (address, mapped)
    return any(form in ipaddress.ip_network(str(network)) for form in forms for network in wanted)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(one: Value, other: Value) -> bool:
    """1 and 1.0 are equal; a boolean, a text and a number never are."""
    return one == other and (type(one) is type(other) or (_is_number(one) and _is_number(other)))
