"""What the checks of detectors share: how a find is told, and what stands around it. Texts are UTF-8 bytes."""

from collections.abc import Callable
from typing import Final

Found = tuple[int, int, int]
"""A find (start, end) and where the search goes on; a negative start: nothing was found."""

Check = Callable[[bytes, int, int], Found]
"""From a text and the place of a candidate (start, end) to what it really is."""

_ESCAPES: Final = b"nrtbfv"
_BACKSLASH: Final = 0x5C


def nothing(resume: int) -> Found:
    """No find; the search goes on at `resume`."""
    return (-1, -1, resume)


def is_digit(byte: int) -> bool:
    """Whether it is one of 0 to 9."""
    return 48 <= byte <= 57


def is_word(byte: int) -> bool:
    """Whether it is a letter or a digit of ASCII. An underscore is none: `card_4111...` holds a number of its own."""
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


def opens(data: bytes, start: int) -> bool:
    """Whether a word can begin at `start`: after no letter or digit, unless that is the end of an escape (`\\n`)."""
    if start == 0 or not is_word(data[start - 1]):
        return True
    return start >= 2 and data[start - 2] == _BACKSLASH and data[start - 1] in _ESCAPES


def closes(data: bytes, end: int) -> bool:
    """Whether a word can end at `end`."""
    return end >= len(data) or not is_word(data[end])


def digit_at(data: bytes, index: int) -> bool:
    """Whether there is a digit at `index`, which may lie outside of the text."""
    return 0 <= index < len(data) and is_digit(data[index])


def byte_at(data: bytes, index: int) -> int:
    """The byte at `index`; 0 outside of the text."""
    return data[index] if 0 <= index < len(data) else 0
