"""The forms in which one text is read, and the way back from each to the text itself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from openmcp.sidecar.detection import encodings, folding
from openmcp.sidecar.detection.folding import Piece

Pieces = Callable[[str], Iterator[Piece]]
Place = tuple[int, int]

_GROWTH: Final = 4
_ALLOWANCE: Final = 4096


class Reading:
    """A form of a text: as it stands, or made from another reading by `pieces`. `data` is the text in UTF-8."""

    __slots__ = ("_pieces", "_root", "data", "parent", "text")

    def __init__(self, text: str, data: bytes, parent: "Reading | None" = None, pieces: Pieces | None = None) -> None:
        self.text = text
        self.data = data
        self.parent = parent
        self._pieces = pieces
        self._root: int = len(text) if parent is None else parent._root

    def within_bounds(self) -> bool:
        """Whether the form has not grown far beyond the text."""
        return len(self.text) <= _GROWTH * self._root + _ALLOWANCE

    def characters(self, places: Sequence[Place]) -> list[Place]:
        """Places in bytes as places in characters."""
        if len(self.data) == len(self.text):
            return list(places)
        offsets: dict[int, int] = {}
        reached = count = 0
        for offset in sorted({offset for place in places for offset in place}):
            count += len(self.data[reached:offset].decode("utf-8", "surrogatepass"))
            reached = offset
            offsets[offset] = count
        return [(offsets[start], offsets[end]) for start, end in places]

    def to_raw(self, places: Sequence[Place]) -> list[Place]:
        """Places in this form as places in the text itself: everything that they were made from."""
        result = list(places)
        reading = self
        while reading.parent is not None and reading._pieces is not None:
            result = _back(result, reading.parent.text, reading.text, reading._pieces)
            reading = reading.parent
        return result


def _back(places: list[Place], text: str, made: str, pieces: Pieces) -> list[Place]:
    """From places in what was made to places in `text`.

    A place that begins or ends within a piece takes all of it. Where the pieces do not make up what was made, the place
    is the whole text.
    """
    starts = sorted({start for start, _ in places})
    ends = sorted({end for _, end in places if end < len(made)})
    first: dict[int, int] = {}
    last: dict[int, int] = {len(made): len(text)}
    begun = ended = grown = 0  # starts and ends that are placed, and how much longer what was made is up to here
    for start, end, plain in pieces(text):
        behind = start + grown + len(plain)
        while begun < len(starts) and starts[begun] < behind:
            first[starts[begun]] = min(starts[begun] - grown, start)
            begun += 1
        while ended < len(ends) and ends[ended] <= behind:
            last[ends[ended]] = ends[ended] - grown if ends[ended] <= start + grown else end
            ended += 1
        grown += len(plain) - (end - start)
        if begun == len(starts) and ended == len(ends):
            return [(first[start], last[end]) for start, end in places]
    if len(text) + grown != len(made):
        return [(0, len(text)) for _ in places]
    first.update({start: start - grown for start in starts[begun:]})
    last.update({end: end - grown for end in ends[ended:]})
    return [(first[start], last[end]) for start, end in places]


def markers() -> list[str]:
    """RE2 patterns of which each finds what one of the steps changes."""
    return [folding.CONTROLS, folding.characters(), folding.MARKS, *encodings.MARKERS]


_CONTROLS: Final = 0
_CHARACTERS: Final = 1
_MARKS: Final = 2
_ESCAPES: Final = 3


def next_readings(reading: Reading, found: Sequence[int]) -> list[Reading]:
    """The next forms of the text, in which those of `markers()` were found; none: there is nothing to fold or decode.

    Folding and escapes go one after the other. What may be packed in two ways is unpacked in each.
    """
    text = reading.text
    for made, pieces in _steps(text, found):
        if made != text:
            return [_read(made, reading, pieces)]
    unpacked = [
        (_applied(text, pieces), pieces)
        for number, pieces in enumerate(encodings.PACKINGS, start=_ESCAPES + 1)
        if number in found
    ]
    return [_read(made, reading, pieces) for made, pieces in unpacked if made != text]


def _read(text: str, parent: Reading, pieces: Pieces) -> Reading:
    return Reading(text, text.encode("utf-8", "surrogatepass"), parent, pieces)


def _steps(text: str, found: Sequence[int]) -> Iterator[tuple[str, Pieces]]:
    if _CONTROLS in found:
        yield folding.without_controls(text), folding.control_pieces
    if _CHARACTERS in found:
        yield folding.common(text), folding.common_pieces
        yield folding.rare(text), folding.rare_pieces
    if not text.isascii():
        yield folding.normalized(text), folding.normalized_pieces
    if _MARKS in found:
        yield folding.without_marks(text), folding.mark_pieces
    if _ESCAPES in found:
        yield _applied(text, encodings.unescape_pieces), encodings.unescape_pieces


def _applied(text: str, pieces: Pieces) -> str:
    parts: list[str] = []
    reached = 0
    for start, end, plain in pieces(text):
        parts += (text[reached:start], plain)
        reached = end
    parts.append(text[reached:])
    return "".join(parts)
