"""Globs of policy: `*` stands for any run of characters (also `/`), `?` for one; everything else is itself."""

from collections.abc import Iterable

import re2

from openmcp.config.globs import is_literal


class GlobSet:
    """Several globs as one matcher; time is linear in the text whatever the globs are."""

    __slots__ = ("_literals", "_pattern")

    def __init__(self, globs: Iterable[str]) -> None:
        given = tuple(globs)
        self._literals = frozenset(glob for glob in given if is_literal(glob))
        patterns = [pattern_of(glob) for glob in given if not is_literal(glob)]
        self._pattern = re2.compile(f"(?s){'|'.join(patterns)}") if patterns else None

    def matches(self, text: str) -> bool:
        """Whether any glob matches the whole of `text`."""
        if text in self._literals:
            return True
        # As bytes: half the time of a text.
        return self._pattern is not None and self._pattern.fullmatch(text.encode()) is not None


def pattern_of(glob: str) -> str:
    """The glob in the syntax of RE2; `.` must match every character (`(?s)`)."""
    escaped: str = re2.escape(glob)
    return "(?:" + escaped.replace(r"\*", ".*").replace(r"\?", ".") + ")"
