"""Reading `when`: conditions on the arguments of a call, each value of the type that its operator is made for."""

import msgspec

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, choice, integer, list_of, some
from openmcp.config.values import URI_GLOB, glob, json_path, network, number, pattern
from openmcp.config.yamlsource import Scalar, Sequence

_OPERATORS = tuple(operator.value for operator in model.Operator)
MAX_LENGTH = 1_000_000_000
"""The highest limit of `lengthAtMost`."""


class _Value(msgspec.Struct, frozen=True):
    """A value that was read; in a struct of its own, since null is one."""

    of: model.Value | tuple[model.Value, ...] = None


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    op: str


_head = Shape(
    _Head,
    {"path": json_path, "op": choice(_OPERATORS)},
    required=("path", "op"),
    ignored=("value",),
)


def condition(at: At) -> model.Condition | None:
    """One entry of `when`: `{path, op, value}`."""
    head, word = _head(at), at.key("op")
    if word is None or word.text() not in _OPERATORS:
        return None
    operator = model.Operator(word.text())
    value = _value(at, operator)  # also where the path was refused: all errors are told at once
    return None if head is None or value is None else model.Condition(path=head.path, op=operator, value=value.of)


def _value(at: At, operator: model.Operator) -> _Value | None:
    given = at.key("value")
    read = _READ.get(operator)
    if read is None:
        if given is None:
            return _Value()
        given.error(f"`op: {operator}` takes no value")
    elif given is None:
        at.error(f"`value` is required with `op: {operator}`")
    else:
        return read(given)
    return None


def _single(at: At) -> _Value | None:
    """A text, a number, true, false or null; all of them compare with their own type alone."""
    if not isinstance(at.node, Scalar):
        at.expected("a text, a number, true, false or null")
    elif at.node.value is None and not at.node.text:
        at.error("expected a value, found nothing", 'write null to compare with null, "" for the empty text')
    else:
        return _Value(at.node.value)
    return None


def _one_or_several(read_item: Reading[_Value]) -> Reading[_Value]:
    """A list of values or a single one; a tuple either way."""
    read_list = some(list_of(read_item), "no value is in an empty list: write one, or remove the condition")

    def read(at: At) -> _Value | None:
        values: tuple[_Value, ...] | None
        if isinstance(at.node, Sequence):
            values = read_list(at)
        else:
            only = read_item(at)
            values = None if only is None else (only,)
        return None if values is None else _Value(tuple(_flat(value) for value in values))

    return read


def _flat(value: _Value) -> model.Value:
    assert not isinstance(value.of, tuple)
    return value.of


def _wrapped(read_value: Reading[model.Value]) -> Reading[_Value]:
    def read(at: At) -> _Value | None:
        value = read_value(at)
        return None if value is None else _Value(value)

    return read


_READ: dict[model.Operator, Reading[_Value]] = {
    **dict.fromkeys((model.Operator.EQ, model.Operator.NE), _single),
    **dict.fromkeys((model.Operator.IN, model.Operator.NOT_IN), _one_or_several(_single)),
    **dict.fromkeys((model.Operator.LT, model.Operator.LTE, model.Operator.GT, model.Operator.GTE), _wrapped(number)),
    model.Operator.MATCHES: _wrapped(pattern),
    model.Operator.GLOB: _wrapped(glob(URI_GLOB)),
    model.Operator.CIDR: _one_or_several(_wrapped(network)),
    model.Operator.LENGTH_AT_MOST: _wrapped(integer(0, MAX_LENGTH)),
}
"""How the value of each operator is read; `exists` and `absent` have none."""
