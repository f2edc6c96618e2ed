"""Block Kit's limits, as Slack documents them for each block and element: what Slack would refuse is a fault here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MESSAGE = 50
MODAL = 100
Faults = Iterator[str]


def message_faults(blocks: object) -> list[str]:
    """What is wrong with the blocks of a message."""
    faults = [*_blocks(blocks, MESSAGE, ("header", "section", "context", "actions", "divider"))]
    size = len(json.dumps(blocks, ensure_ascii=False))
    return faults + ([f"blocks: {size} characters in all"] if size > 24_000 else [])


def view_faults(view: object) -> list[str]:
    """What is wrong with a modal."""
    return [*_view(view)]


def _view(view: object) -> Faults:
    if not isinstance(view, dict) or view.get("type") != "modal":
        yield "view: no modal"
        return
    known = {"type", "callback_id", "private_metadata", "title", "submit", "close", "blocks"}
    yield from _keys("view", view, known, ("title", "blocks"))
    for name in ("title", "submit", "close"):
        if name in view:
            yield from _plain(f"view.{name}", view[name], 24)
    if len(view.get("private_metadata", "")) > 3000:
        yield "view.private_metadata: longer than 3000"
    if len(view.get("callback_id", "")) > 255:
        yield "view.callback_id: longer than 255"
    yield from _blocks(view["blocks"], MODAL, ("section", "input"))
    has_input = any(block.get("type") == "input" for block in view["blocks"])
    if has_input and "submit" not in view:
        yield "view: inputs need a submit"


def _blocks(blocks: object, most: int, allowed: tuple[str, ...]) -> Faults:
    if not isinstance(blocks, list) or not blocks or len(blocks) > most:
        yield f"blocks: not a list of 1 to {most}"
        return
    ids = [block["block_id"] for block in blocks if "block_id" in block]
    if len(set(ids)) != len(ids):
        yield "blocks: block_id twice"
    for index, block in enumerate(blocks):
        where = f"blocks[{index}]"
        if block.get("type") not in allowed:
            yield f"{where}: type {block.get('type')}"
            continue
        if len(block.get("block_id", "")) > 255:
            yield f"{where}.block_id: longer than 255"
        yield from _BLOCKS[block["type"]](where, block)


def _header(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id", "text"}, ("text",))
    yield from _plain(f"{where}.text", block.get("text"), 150)


def _section(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id", "text", "fields"}, ())
    if "text" not in block and "fields" not in block:
        yield f"{where}: neither text nor fields"
    if "text" in block:
        yield from _plain(f"{where}.text", block["text"], 3000)
    fields = block.get("fields", [None])
    if not 1 <= len(fields) <= 10:
        yield f"{where}.fields: not 1 to 10"
    for number, field in enumerate(block.get("fields", [])):
        yield from _plain(f"{where}.fields[{number}]", field, 2000)


def _context(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id", "elements"}, ("elements",))
    if not 1 <= len(block["elements"]) <= 10:
        yield f"{where}.elements: not 1 to 10"
    for number, element in enumerate(block["elements"]):
        yield from _plain(f"{where}.elements[{number}]", element, 3000)


def _actions(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id", "elements"}, ("elements",))
    if not 1 <= len(block["elements"]) <= 25:
        yield f"{where}.elements: not 1 to 25"
    ids = [element.get("action_id") for element in block["elements"]]
    if len(set(ids)) != len(ids):
        yield f"{where}: action_id twice"
    for number, element in enumerate(block["elements"]):
        yield from _element(f"{where}.elements[{number}]", element, ("button",))


def _input(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id", "label", "element", "optional", "hint"}, ("label", "element"))
    yield from _plain(f"{where}.label", block["label"], 2000)
    yield from _element(f"{where}.element", block["element"], ("static_select", "number_input", "plain_text_input"))


def _divider(where: str, block: Mapping[str, Any]) -> Faults:
    yield from _keys(where, block, {"type", "block_id"}, ())


def _element(where: str, element: Mapping[str, Any], allowed: tuple[str, ...]) -> Faults:
    if element.get("type") not in allowed:
        yield f"{where}: type {element.get('type')}"
        return
    if not 1 <= len(element.get("action_id", "")) <= 255:
        yield f"{where}.action_id: not 1 to 255"
    yield from _ELEMENTS[element["type"]](where, element)


def _button(where: str, element: Mapping[str, Any]) -> Faults:
    yield from _keys(where, element, {"type", "action_id", "text", "value", "url", "style"}, ("text",))
    yield from _plain(f"{where}.text", element["text"], 75)
    if len(element.get("value", "")) > 2000 or len(element.get("url", "")) > 3000:
        yield f"{where}: value or url too long"
    if element.get("style", "primary") not in ("primary", "danger"):
        yield f"{where}.style: {element['style']}"


def _select(where: str, element: Mapping[str, Any]) -> Faults:
    yield from _keys(where, element, {"type", "action_id", "options", "initial_option"}, ("options",))
    if not 1 <= len(element["options"]) <= 100:
        yield f"{where}.options: not 1 to 100"
    for number, option in enumerate(element["options"]):
        yield from _keys(f"{where}.options[{number}]", option, {"text", "value"}, ("text", "value"))
        yield from _plain(f"{where}.options[{number}].text", option["text"], 75)
        if not 1 <= len(option["value"]) <= 150:
            yield f"{where}.options[{number}].value: not 1 to 150"
    if "initial_option" in element and element["initial_option"] not in element["options"]:
        yield f"{where}.initial_option: not one of the options"


def _number(where: str, element: Mapping[str, Any]) -> Faults:
    known = {"type", "action_id", "is_decimal_allowed", "min_value", "max_value", "initial_value"}
    yield from _keys(where, element, known, ("is_decimal_allowed",))
    for name in ("min_value", "max_value"):
        if name in element and not (isinstance(element[name], str) and element[name].isdigit()):
            yield f"{where}.{name}: not a number as text"


def _text(where: str, element: Mapping[str, Any]) -> Faults:
    yield from _keys(where, element, {"type", "action_id", "multiline", "max_length", "min_length"}, ())
    if not 1 <= element.get("max_length", 1) <= 3000:
        yield f"{where}.max_length: not 1 to 3000"


def _plain(where: str, text: object, most: int) -> Faults:
    """Plain text: nothing here may be mrkdwn, since any of it may hold what others have written."""
    if not isinstance(text, dict) or text.get("type") != "plain_text":
        yield f"{where}: not plain_text"
        return
    yield from _keys(where, text, {"type", "text", "emoji"}, ("text", "emoji"))
    if text.get("emoji") is not False:
        yield f"{where}: emoji are read"
    if not 1 <= len(text.get("text", "")) <= most:
        yield f"{where}.text: {len(text.get('text', ''))} characters, 1 to {most} are taken"


def _keys(where: str, given: Mapping[str, Any], known: set[str], required: tuple[str, ...]) -> Faults:
    for name in sorted(set(given) - known):
        yield f"{where}: unknown key {name}"
    for name in required:
        if name not in given:
            yield f"{where}: no {name}"


_BLOCKS: dict[str, Callable[[str, Mapping[str, Any]], Faults]] = {
    "header": _header,
    "section": _section,
    "context": _context,
    "actions": _actions,
    "input": _input,
    "divider": _divider,
}
_ELEMENTS: dict[str, Callable[[str, Mapping[str, Any]], Faults]] = {
    "button": _button,
    "static_select": _select,
    "number_input": _number,
    "plain_text_input": _text,
}
