"""The pages as HTML, rendered by Jinja with autoescaping; what they show of requests comes from cards alone."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import markupsafe
import msgspec

from openmcp.sidecar.approvals.card import PAGE, Card, card_of
from openmcp.sidecar.approvals.words import moment
from openmcp.sidecar.state.records import ApprovalRecord

_HERE: Final = Path(__file__).parent
STATIC: Final[Mapping[str, tuple[str, bytes]]] = {
    name: (kind, (_HERE / "static" / name).read_bytes())
    for name, kind in (("console.css", "text/css"), ("count.js", "text/javascript"), ("icon.svg", "image/svg+xml"))
}
VERSION: Final = hashlib.sha256(b"".join(body for _, body in STATIC.values())).hexdigest()[:12]
"""Of the files above: part of their URLs, so that browsers may keep them."""


def _breakable(text: str) -> markupsafe.Markup:
    """A name that lines may break in after each slash."""
    return markupsafe.Markup("/<wbr>").join(text.split("/"))


_environment: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["version"] = VERSION
_environment.filters["moment"] = moment
_environment.filters["breakable"] = _breakable


class Entry(msgspec.Struct, frozen=True):
    """A request on a list or page: its card, and the numbers of the forms that this person may send (by action)."""

    card: Card
    forms: Mapping[str, str]


def entry(record: ApprovalRecord, now: int, forms: Mapping[str, str], most: int = PAGE) -> Entry:
    """A request: nothing is cut on its page, and texts are kept short on lists of many."""
    return Entry(card_of(record, now, most), forms)


def render(template: str, **values: Any) -> str:
    """A page. Every value is escaped; a name that a template uses and nobody gave is an error."""
    return _environment.get_template(template).render(**values)
