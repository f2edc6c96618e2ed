"""Requests as Slack shows them: messages and dialogues in Block Kit, within its limits. Pure.

What others have written stands in `plain_text` alone, where Slack reads no links, mentions or emoji, and never in the
`text` of a message, which is read as mrkdwn. What does not fit whole makes `Message.page_only`: then nobody approves
from Slack, only on the page.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from openmcp.sidecar.approvals.card import Card, Value
from openmcp.sidecar.approvals.words import moment
from openmcp.sidecar.state.records import Choice, Status

Block = dict[str, Any]

APPROVE: Final = "openmcp_approve"
DENY: Final = "openmcp_deny"
PAGE: Final = "openmcp_page"
CALLBACK: Final = "openmcp_decision"
"""Names of our buttons and dialogues: other apps' are not answered."""

REASON: Final = "reason"
DURATION: Final = "duration"
USES: Final = "uses"
LONGEST_REASON: Final = 500

_SECTION: Final = 3000
_FIELD: Final = 2000
_FIELDS: Final = 10
_SHOWN: Final = 20
"""Values in one message, and rules; the page shows all of them."""
_BUDGET: Final = 4000
"""Characters of all values of one message together: Slack refuses very long ones (`msg_blocks_too_long`)."""
_VOTES: Final = 5

_MARKS: Final = {Status.PENDING: "Approval wanted", Status.APPROVED: "Approved", Status.DENIED: "Denied"}


class Message(msgspec.Struct, frozen=True):
    """The arguments of chat.postMessage and chat.update that say something; `page_only` as on the card."""

    text: str
    blocks: list[Block]
    page_only: bool


def message(card: Card, link: str) -> Message:
    """A request as a message; `link` is its page, empty where there is no console."""
    page_only = card.page_only or not _fits(card)
    heading = _MARKS.get(card.status, f"Request {card.status.value}")
    blocks = [
        {"type": "header", "text": _plain(f"{heading}: {card.subject}", 150)},
        _fields((("Agent", card.agent), ("Known by", card.proof), ("Server", card.server), ("Asks for", card.subject))),
        *_values(card.shown),
        *_why(card),
        *_outcome(card, page_only),
        {"type": "context", "elements": [_plain(text, _FIELD) for text in _small(card)]},
    ]
    buttons = _buttons(card, link, page_only)
    if buttons:
        blocks.append({"type": "actions", "block_id": "decide", "elements": buttons})
    return Message(f"{heading}: request {card.rid}", blocks, page_only)


def dialogue(card: Card, choice: Choice, need_reason: bool, metadata: str) -> Block:
    """What opens when a button is pressed: what the grant would cover, for how long, and why."""
    approving = choice is Choice.APPROVE
    said = card.granted.sentence if approving else f"{card.agent} may not use {card.subject} of {card.server}"
    blocks: list[Block] = [{"type": "section", "text": _plain(said, _SECTION)}]
    if approving:
        blocks.append(_durations(card))
        blocks.append(_uses(card))
    blocks.append(_reason(need_reason))
    return {
        "type": "modal",
        "callback_id": CALLBACK,
        "private_metadata": metadata,
        "title": _plain("Approve" if approving else "Deny", 24),
        "submit": _plain("Approve" if approving else "Deny", 24),
        "close": _plain("Cancel", 24),
        "blocks": blocks,
    }


def notice(title: str, text: str) -> Block:
    """A dialogue that only tells something."""
    return {
        "type": "modal",
        "title": _plain(title, 24),
        "close": _plain("Close", 24),
        "blocks": [{"type": "section", "text": _plain(text, _SECTION)}],
    }


def fits(card: Card) -> bool:
    """Whether Slack can show the whole of it: else nobody approves from there."""
    return not card.page_only and _fits(card)


def _fits(card: Card) -> bool:
    texts = [(text, value.whole) for value in card.shown for text in _value(value)]
    whole = len(card.shown) <= _SHOWN and all(len(text) <= (_SECTION if wide else _FIELD) for text, wide in texts)
    return whole and sum(len(text) for text, _ in texts) <= _BUDGET and len(card.granted.sentence) <= _SECTION


def _plain(text: str, most: int) -> Block:
    """Text that Slack shows as it is. An empty one is refused by Slack."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return {"type": "plain_text", "text": shown or "-", "emoji": False}


def _fields(pairs: Iterable[tuple[str, str]]) -> Block:
    return {"type": "section", "fields": [_plain(f"{label}\n{text}", _FIELD) for label, text in pairs]}


def _value(value: Value) -> tuple[str, ...]:
    return (f"{value.label}\n{value.text}", *((f"{value.label}, exactly\n{value.exact}",) if value.exact else ()))


def _values(shown: tuple[Value, ...]) -> list[Block]:
    """Side by side; the whole arguments have a place of their own."""
    fields: list[str] = []
    wide: list[str] = []
    left = _BUDGET
    for text, is_whole in ((text, value.whole) for value in shown[:_SHOWN] for text in _value(value)):
        left -= len(text)
        if left < 0:
            break
        (wide if is_whole else fields).append(text)
    parts = [fields[at : at + _FIELDS] for at in range(0, len(fields), _FIELDS)]
    blocks: list[Block] = [{"type": "section", "fields": [_plain(text, _FIELD) for text in part]} for part in parts]
    return blocks + [{"type": "section", "text": _plain(text, _SECTION)} for text in wide]


def _why(card: Card) -> list[Block]:
    rules = "\n".join(f"{one.rule} ({one.workflow}, {one.given} of {one.required})" for one in card.wanted[:_SHOWN])
    said = "\n".join(card.why[:_SHOWN])
    blocks = [_fields((("Rules", rules), ("Why", said or "the rule says so")))]
    if card.reason:
        blocks.append(_fields((("The agent says (not verified)", card.reason),)))
    return blocks


def _outcome(card: Card, page_only: bool) -> list[Block]:
    """What an approval covers, and what was said so far."""
    blocks: list[Block] = []
    if card.status in (Status.PENDING, Status.APPROVED):
        heading = "An approval covers" if card.status is Status.PENDING else "Covered"
        blocks.append({"type": "section", "text": _plain(f"{heading}\n{card.granted.sentence}", _SECTION)})
    if card.status is Status.PENDING and page_only:
        text = "Not all of it can be shown here: it is approved on its page alone."
        blocks.append({"type": "section", "text": _plain(text, _SECTION)})
    for vote in card.votes[-_VOTES:]:
        said = f"{vote.approver} {vote.choice} at {moment(vote.at)}"
        more = [text for text in (vote.limits, vote.reason) if text]
        blocks.append(
            {"type": "section", "text": _plain(": ".join((said, ", ".join(more))) if more else said, _SECTION)}
        )
    if card.status is not Status.PENDING:
        ended = f"{card.status_text}{f' by {card.ended_by}' if card.ended_by else ''}"
        text = f"{ended}{f': {card.end_reason}' if card.end_reason else ''}"
        blocks.append({"type": "section", "text": _plain(text, _SECTION)})
    return blocks


def _small(card: Card) -> list[str]:
    ends = "Waits until" if card.status is Status.PENDING else "Until"
    lines = [f"{ends} {card.ends}", f"Asked {card.asked_text}", f"Arguments SHA-256 {card.digest}", card.rid]
    return [*lines, card.missing] if card.missing else lines


def _buttons(card: Card, link: str, page_only: bool) -> list[Block]:
    buttons = []
    if card.status is Status.PENDING:
        if not page_only:
            buttons.append(_button("Approve…", APPROVE, card.rid) | {"style": "primary"})
        buttons.append(_button("Deny…", DENY, card.rid) | {"style": "danger"})
    if link:
        buttons.append(_button("Open page", PAGE, card.rid) | {"url": link})
    return buttons


def _button(text: str, action: str, value: str) -> Block:
    return {"type": "button", "text": _plain(text, 75), "action_id": action, "value": value}


def _durations(card: Card) -> Block:
    options = [_option(one.text, str(one.milliseconds)) for one in card.durations]
    chosen = next(option for option, one in zip(options, card.durations, strict=True) if one.default)
    element = {"type": "static_select", "action_id": DURATION, "options": options, "initial_option": chosen}
    return {"type": "input", "block_id": DURATION, "label": _plain("For", 2000), "element": element}


def _option(text: str, value: str) -> Block:
    return {"text": _plain(text, 75), "value": value}


def _uses(card: Card) -> Block:
    element: Block = {"type": "number_input", "action_id": USES, "is_decimal_allowed": False, "min_value": "1"}
    if card.most_uses is not None:
        element["max_value"] = str(card.most_uses)
    most = "any number" if card.most_uses is None else f"{card.most_uses}"
    label = f"Calls at most (left empty: {most})"
    return {"type": "input", "block_id": USES, "optional": True, "label": _plain(label, 2000), "element": element}


def _reason(needed: bool) -> Block:
    element = {"type": "plain_text_input", "action_id": REASON, "multiline": True, "max_length": LONGEST_REASON}
    return {
        "type": "input",
        "block_id": REASON,
        "optional": not needed,
        "label": _plain("Reason", 2000),
        "element": element,
    }


def chosen(values: Mapping[str, Any]) -> tuple[str, str, str]:
    """What stands in a dialogue's `state.values`: reason, duration and uses as texts, empty where nothing is."""
    picked = _state(values, DURATION).get("selected_option")
    duration = picked.get("value") if isinstance(picked, Mapping) else None
    return _text(_state(values, REASON).get("value")), _text(duration), _text(_state(values, USES).get("value"))


def _state(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = values.get(name)
    found = block.get(name) if isinstance(block, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
