"""Characters that a model reads and a person does not see, in the entries of lists: taken out, rules or none.

Unicode tags (U+E0000-E007F), direction overrides and isolates (U+202A-202E, U+2066-2069), and zero-width characters
(U+200B, U+2060, U+FEFF).
"""

import re
from typing import Any, Final

from openmcp.config.jsonpath import Location
from openmcp.sidecar.inspection.edits import Edits

# A fixed character class, not a pattern a user wrote: it takes linear time.
_UNSEEN: Final = re.compile("[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069\u200b\u2060\ufeff]")


def visible(entries: list[Any], name: str) -> list[Any]:
    """The entries of a list without unseen characters: the same list where there are none.

    An entry whose `name` (the member that names it) has some is left out: under another name nobody could ask for it.
    """
    shown = [entry if type(entry) is not dict else _cleaned(entry, name) for entry in entries]
    same = all(one is other for one, other in zip(shown, entries, strict=True))
    return entries if same else [entry for entry in shown if entry is not None]


def _cleaned(entry: dict[str, Any], name: str) -> dict[str, Any] | None:
    named = entry.get(name)
    if type(named) is str and _has_unseen(named):
        return None
    edits = Edits()
    stack: list[tuple[Location, Any]] = [((), entry)]
    while stack:
        location, value = stack.pop()
        if type(value) is dict:
            for key in filter(_has_unseen, value):
                edits.rename(location, key, _UNSEEN.sub("", key))
            stack += [((*location, key), member) for key, member in value.items()]
        elif type(value) is list:
            stack += [((*location, index), member) for index, member in enumerate(value)]
        elif type(value) is str and _has_unseen(value):
            edits.set(location, _UNSEEN.sub("", value))
    cleaned: dict[str, Any] = edits.apply(entry)
    return cleaned


def _has_unseen(text: str) -> bool:
    return not text.isascii() and _UNSEEN.search(text) is not None
