"""Which characters show something where they are written."""

from typing import Final

_BLANK: Final = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))
"""Characters that Python calls printable and that show nothing: fillers, joiners, an empty Braille cell."""
_SELECTORS: Final = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def is_visible(one: str) -> bool:
    """Whether a character shows something and leaves those around it as they are; a space does."""
    if one.isascii():
        return one.isprintable()
    code = ord(one)
    return one.isprintable() and code not in _BLANK and not any(code in part for part in _SELECTORS)
