"""What a finder found, and where."""

import msgspec


class Span(msgspec.Struct, frozen=True):
    """A find: the characters `start` (inclusive) to `end` (exclusive) of a text, and what they are.

    `what` is the name of a detector or, for a pattern, that of the rule.
    """

    start: int
    end: int
    what: str
