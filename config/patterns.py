"""Regular expressions that users write: RE2 alone, whose time is linear in the text whatever the pattern is."""

import re
from typing import Final

import re2

MAX_MEMORY: Final = 1024 * 1024
"""Bytes that one pattern may take once it is compiled."""

_MEANT: Final = (
    (r"invalid perl operator: \(\?<?[=!]", "look-ahead and look-behind, {0}, are not part of RE2"),
    (r"invalid perl operator: \(\?>", "atomic groups, {0}, are not part of RE2"),
    (r"invalid perl operator: \(\?#", "comments, {0}, are not part of RE2"),
    (r"invalid escape sequence: \\[1-9]", "back-references such as {0} are not part of RE2"),
    (r"invalid escape sequence: \\Z", "{0} is not part of RE2: the end of the text is \\z"),
    (r"invalid escape sequence: \\", "{0} has no meaning in RE2: a character that stands for itself needs no \\"),
    (r"invalid perl operator: ", "{0} is not part of RE2"),
    (r"missing \): ", "a ( is not closed"),
    (r"unexpected \): ", "a ) that no ( opens"),
    (r"missing \]: ", "a [ is not closed: {0}"),
    (r"no argument for repetition operator: ", "nothing stands before {0} that could be repeated (a text: \\{0})"),
    (r"bad repetition operator: ", "{0} repeats a repetition, which is not part of RE2"),
    (
        r"invalid repetition size: ",
        "{0} is no repetition of RE2: 1000 times at most, nested ones multiplied, the smaller number first",
    ),
    (r"invalid character class range: ", "{0} is no range or class of characters"),
    (r"pattern too large", "it needs too much memory: repeat less, or use smaller classes of characters"),
    (r"trailing \\", "it ends with a single \\"),
)


def options() -> "re2.Options":
    """How patterns are compiled: Unicode, within `MAX_MEMORY`, nothing written to stderr."""
    made = re2.Options()
    made.max_mem = MAX_MEMORY
    made.log_errors = False
    return made


def check_pattern(text: str) -> str | None:
    """Why RE2 refuses a pattern, in words for the one who wrote it; None where it does not."""
    if "C" in re.findall(r"\\(.)", text, re.DOTALL):
        return "\\C, a single byte, is not available: the text is searched by characters"
    try:
        re2.compile(text, options())
    except UnicodeEncodeError:
        return "it holds half of a character (a lone surrogate)"
    except re2.error as error:
        said = error.args[0] if error.args else b""
        return _reason(said.decode(errors="replace") if isinstance(said, bytes) else str(said))
    return None


def _reason(said: str) -> str:
    for pattern, meant in _MEANT:
        if re.match(pattern, said):
            return meant.format(said.partition(": ")[2])
    return said
