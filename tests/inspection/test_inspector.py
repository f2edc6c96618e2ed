"""What becomes of a message in which something is found: every place, every kind of rule."""

import base64
import json
import time
from typing import Any

import pytest

from openmcp.config.model import Binary
from openmcp.identity.principal import Principal
from openmcp.sidecar.inspection.findings import MAX_FINDINGS, Finding
from openmcp.sidecar.inspection.inspector import gather
from openmcp.sidecar.inspection.inspectors import MAX_AGENTS, Inspectors
from openmcp.sidecar.types import METHOD, TOOL, Subject
from tests.inspection.responses import CALLED, block, inspector, redact, saying

Json = dict[str, Any]
MAIL = "bob@corp.example"
GONE = "[redacted:email]"


def text(*texts: str, **more: Any) -> Json:
    return {"content": [{"type": "text", "text": one} for one in texts], **more}


def packed(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def item(**members: Any) -> Json:
    return {"content": [members]}


def resource(**members: Any) -> Json:
    return item(type="resource", resource={"uri": "note:///a", **members})


REPLACED = {"type": "text", "text": GONE}

REWRITTEN: list[tuple[str, Json, Json]] = [
    ("text", text(f"to {MAIL}, now"), text(f"to {GONE}, now")),
    ("twice in a text", text(f"{MAIL} {MAIL}"), text(f"{GONE} {GONE}")),
    ("one of two items", text("fine", MAIL), text("fine", GONE)),
    ("structuredContent", {"structuredContent": {"a": [MAIL]}}, {"structuredContent": {"a": [GONE]}}),
    ("structuredContent that is no object", {"structuredContent": MAIL}, {"structuredContent": GONE}),
    ("a key of it", {"structuredContent": {MAIL: 1, "b": 2}}, {"structuredContent": {GONE: 1, "b": 2}}),
    ("its keys", {"structuredContent": {MAIL: 1, "x" + MAIL: 2}}, {"structuredContent": {GONE: 1, GONE + " 2": 2}}),
    ("a key taken", {"structuredContent": {GONE: 1, MAIL: 2}}, {"structuredContent": {GONE: 1, GONE + " 2": 2}}),
    ("a key to come", {"structuredContent": {MAIL: 2, GONE: 1}}, {"structuredContent": {GONE + " 2": 2, GONE: 1}}),
    ("a key below a key", {"structuredContent": {MAIL: {MAIL: {MAIL: 1}}}},
     {"structuredContent": {GONE: {GONE: {GONE: 1}}}}),
    ("below a key", {"structuredContent": {MAIL: {"a": MAIL}}}, {"structuredContent": {GONE: {"a": GONE}}}),
    ("names in the server's own data", {"structuredContent": {"uri": MAIL}}, {"structuredContent": {"uri": GONE}}),
    ("_meta", {"_meta": {"x/y": {MAIL: MAIL}}}, {"_meta": {"x/y": {GONE: GONE}}}),
    ("resource text", resource(text=f"mail {MAIL}"), resource(text=f"mail {GONE}")),
    ("contents", {"contents": [{"uri": "a:b", "text": MAIL}]}, {"contents": [{"uri": "a:b", "text": GONE}]}),
    ("a blob of text", resource(blob=packed(f"x {MAIL}")), resource(blob=packed(f"x {GONE}"))),
    ("annotations of nobody's", item(type="text", text="", x={"y": MAIL}), item(type="text", text="", x={"y": GONE})),
    ("a prompt", {"messages": [{"role": "user", "content": {"type": "text", "text": MAIL}}]},
     {"messages": [{"role": "user", "content": {"type": "text", "text": GONE}}]}),
    ("its description", {"description": MAIL, "messages": []}, {"description": GONE, "messages": []}),
    ("a completion", {"completion": {"values": ["a", MAIL]}}, {"completion": {"values": ["a", GONE]}}),
    ("instructions", {"instructions": MAIL}, {"instructions": GONE}),
    ("an error", {"code": 1, "message": MAIL, "data": {"a": MAIL}}, {"code": 1, "message": GONE, "data": {"a": GONE}}),
    ("an error's data", {"code": 1, "message": "", "data": MAIL}, {"code": 1, "message": "", "data": GONE}),
    ("progress", {"progressToken": 1, "progress": 1, "message": MAIL},
     {"progressToken": 1, "progress": 1, "message": GONE}),
    ("a log", {"level": "info", "logger": MAIL, "data": [MAIL]}, {"level": "info", "logger": GONE, "data": [GONE]}),
    ("a question", {"message": MAIL, "requestedSchema": {"properties": {"a": {"description": MAIL}}}},
     {"message": GONE, "requestedSchema": {"properties": {"a": {"description": GONE}}}}),
    ("sampling", {"systemPrompt": MAIL, "messages": [{"content": [{"type": "text", "text": MAIL}]}]},
     {"systemPrompt": GONE, "messages": [{"content": [{"type": "text", "text": GONE}]}]}),
    ("a use of a tool", item(type="tool_use", id="1", name="x", input={"uri": MAIL}),
     item(type="tool_use", id="1", name="x", input={"uri": GONE})),
    ("a tool's result in sampling", item(type="tool_result", content=[{"type": "text", "text": MAIL}]),
     item(type="tool_result", content=[{"type": "text", "text": GONE}])),
    ("input that is asked for", {"inputRequests": {"a": {"method": "elicitation/create", "params": {"message": MAIL}}}},
     {"inputRequests": {"a": {"method": "elicitation/create", "params": {"message": GONE}}}}),
    ("a task", {"taskId": "1", "statusMessage": MAIL, "result": text(MAIL)},
     {"taskId": "1", "statusMessage": GONE, "result": text(GONE)}),
    # What may not be rewritten is taken out with the item around it.
    ("a link", item(type="resource_link", uri=f"mailto:{MAIL}", name="n"), {"content": [REPLACED]}),
    ("a link's name", item(type="resource_link", uri="a:b", name=MAIL), {"content": [REPLACED]}),
    ("a resource's URI", resource(uri=f"mailto:{MAIL}", text=""), {"content": [REPLACED]}),
    ("a media type", item(type="image", data=packed(b"\x89\xff"), mimeType=MAIL), {"content": [REPLACED]}),
    ("a key of the protocol's", {"content": [{"type": "text", "text": "", MAIL: 1}]}, {"content": [REPLACED]}),
    ("a prompt's item", {"messages": [{"content": {"type": "resource_link", "uri": f"mailto:{MAIL}"}}]},
     {"messages": [{"content": REPLACED}]}),
    ("text within a replaced item", item(type="resource_link", uri=f"mailto:{MAIL}", title=MAIL),
     {"content": [REPLACED]}),
    ("an item in an item", item(type="tool_result", toolUseId=MAIL, content=[{"type": "resource_link", "uri": MAIL}]),
     {"content": [REPLACED]}),
    ("keys in a replaced item", item(type="tool_use", id=MAIL, name="", input={MAIL: {MAIL: MAIL}}),
     {"content": [REPLACED]}),
    ("an icon", item(type="resource_link", uri="a:b", name="", icons=[{"src": f"https://a/{MAIL}"}]),
     {"content": [REPLACED]}),
    ("audio that is text", item(type="audio", data=packed(f"wav {MAIL}"), mimeType="audio/wav"),
     item(type="audio", data=packed(f"wav {GONE}"), mimeType="audio/wav")),
]  # fmt: skip


@pytest.mark.parametrize(("document", "left"), [case[1:] for case in REWRITTEN], ids=[case[0] for case in REWRITTEN])
def test_what_is_found_is_redacted_in_its_place(document: Json, left: Json) -> None:
    before = json.dumps(document)
    examined = inspector(redact(detect=["email"])).examine(CALLED, document)
    assert (examined.document, examined.blocked) == (left, None)
    assert {found.action for found in examined.findings} <= {"redact", "withhold"}
    assert json.dumps(document) == before, "the message itself is not touched"
    assert MAIL not in json.dumps([found.path for found in examined.findings])
    assert inspector(redact(detect=["email"])).examine(CALLED, left).document is left, "nothing is left"


@pytest.mark.parametrize("document", [case[1] for case in REWRITTEN], ids=[case[0] for case in REWRITTEN])
def test_what_is_found_blocks_the_message(document: Json) -> None:
    examined = inspector(redact(detect=["email"]), block(detect=["email"])).examine(CALLED, document)
    assert examined.document is document
    assert examined.blocked is not None
    assert (examined.blocked.rule, examined.blocked.action) == ("secrets", "block")
    assert MAIL in examined.blocked.removed
    assert examined.blocked in examined.findings


@pytest.mark.parametrize(
    "document",
    [
        {"contents": [{"uri": f"mailto:{MAIL}", "text": ""}]},
        {"taskId": MAIL},
        {"nextCursor": MAIL},
        {"requestState": MAIL},
        {"url": f"https://x/?m={MAIL}", "message": "", "mode": "url"},
        {"requestedSchema": {"properties": {MAIL: {"type": "string"}}}},
        {"requestedSchema": {"properties": {"a": {"enum": ["b", MAIL]}}}},
        {"inputRequests": {MAIL: {"method": "roots/list"}}},
        {"inputRequests": {"a": {"method": MAIL}}},
        {"serverInfo": {"name": MAIL, "version": "1"}},
        {"supportedVersions": [MAIL]},
        {"_meta": {"progressToken": MAIL}},
        {"tools": [{"name": MAIL}]},
        {"level": MAIL, "data": ""},
        {"tools": [{"name": "t", "inputSchema": {"properties": {"a": {"pattern": MAIL}}}}]},
    ],
)
def test_what_may_not_be_rewritten_blocks_the_message(document: Json) -> None:
    examined = inspector(redact(detect=["email"])).examine(CALLED, document)
    assert examined.blocked is not None
    assert (examined.blocked.rule, examined.blocked.action, examined.document) == ("contact", "block", document)


def test_the_same_message_comes_back_where_nothing_is_found() -> None:
    for document in ({}, text("fine"), {"structuredContent": {"a": [1, None, True, 1.5, {}]}}):
        examined = inspector(redact(detect=["email"]), block(patterns=["x{9}"])).examine(CALLED, document)
        assert examined.document is document
        assert (examined.blocked, examined.findings) == (None, ())


# Numbers


@pytest.mark.parametrize("number", [4111111111111111, -4111111111111111, 4111111111111111.0])
def test_long_numbers_are_texts(number: float) -> None:
    rules = inspector(redact(detect=["credit_card"]))
    left = rules.examine(CALLED, {"structuredContent": {"n": number, "m": 1}}).document
    assert left["structuredContent"]["n"].removeprefix("-") == "[redacted:credit_card]"
    assert rules.examine(CALLED, {"structuredContent": [number]}).document["structuredContent"] != [number]
    blocked = rules.examine(CALLED, {"progressToken": 1, "progress": number}).blocked
    assert blocked is not None, "a progress is a number or nothing"


def test_short_numbers_and_booleans_are_none() -> None:
    document = {"structuredContent": [1234567, 0.5, True, None, 1e300]}
    assert inspector(redact(patterns=["[0-9]|True|None"])).examine(CALLED, document).document["structuredContent"][
        :4
    ] == [1234567, 0.5, True, None]


# Texts that hold others


@pytest.mark.parametrize(
    ("data", "redacted"),
    [
        (f"é {MAIL}".encode(), f"é {GONE}".encode()),
        (f"\ufeff{MAIL}".encode(), f"\ufeff{GONE}".encode()),
        (f"\ufeffé {MAIL}".encode("utf-16-le"), f"\ufeffé {GONE}".encode("utf-16-le")),
        (f"\ufeff{MAIL}".encode("utf-16-be"), f"\ufeff{GONE}".encode("utf-16-be")),
        (MAIL.encode("utf-16-le"), GONE.encode("utf-16-le")),
        (MAIL.encode("utf-16-be"), GONE.encode("utf-16-be")),
        (f"\ufeff{MAIL}".encode("utf-32-le"), f"\ufeff{GONE}".encode("utf-32-le")),
        (MAIL.encode("utf-32-be"), GONE.encode("utf-32-be")),
        (b"\xff mail: " + MAIL.encode(), b"\xff mail: " + GONE.encode()),
    ],
)
def test_a_blob_is_read_as_the_text_it_is(data: bytes, redacted: bytes) -> None:
    rules = inspector(redact(detect=["email"]))
    assert rules.examine(CALLED, resource(blob=packed(data))).document == resource(blob=packed(redacted))
    image = {"type": "image", "mimeType": "image/png", "data": packed(data)}
    assert rules.examine(CALLED, item(**image)).document == item(**image | {"data": packed(redacted)})


@pytest.mark.parametrize(("before", "after"), [(b"\xff\xfe", b""), (b"\xfe\xff", b""), (b"", bytes(1_200))])
def test_a_blob_that_poses_as_another_encoding_is_read_as_ascii_as_well(before: bytes, after: bytes) -> None:
    """By a mark at its beginning, or by its zeros, in so much that it is not searched as it stands for being short."""
    rules = inspector(redact(detect=["email"]))
    data = before + f"{MAIL} ".encode().ljust(1_600) + after
    examined = rules.examine(CALLED, resource(blob=packed(data)))
    assert examined.document["content"][0] == REPLACED
    assert [finding.what for finding in examined.findings] == ["email"]
    clean = resource(blob=packed(before + b"none here ".ljust(1_600) + after))
    assert rules.examine(CALLED, clean).document is clean


def test_a_blob_that_is_said_to_be_text_is_read_as_text() -> None:
    rules = inspector(redact(detect=["email"]))
    noise = bytes(range(128, 256)) * 20
    for said in ("text/plain; charset=x", "application/json", "application/ld+json", "image/svg+xml; charset=utf-8"):
        document = {"contents": [{"uri": "a:b", "mimeType": said, "blob": packed(noise + MAIL.encode())}]}
        [left] = rules.examine(CALLED, document).document["contents"]
        assert base64.b64decode(left["blob"]) == noise + GONE.encode()
    document = {"contents": [{"uri": "a:b", "mimeType": "image/png", "blob": packed(noise + MAIL.encode())}]}
    assert rules.examine(CALLED, document).document is document, "binary content is allowed"


@pytest.mark.parametrize(
    "written",
    [
        packed(MAIL).rstrip("="),
        packed(MAIL)[:8] + "\n" + packed(MAIL)[8:],
        packed(MAIL)[:8] + " !\x00" + packed(MAIL)[8:],
        packed("x" * 100) + packed(MAIL),
        packed("xy".encode("utf-16-le")) + packed(MAIL.encode("utf-16-le")),
        packed(f"\xff{MAIL}>>>???").replace("+", "-").replace("/", "_"),
        MAIL,
    ],
)
def test_base64_is_read_as_leniently_as_anybody_might(written: str) -> None:
    examined = inspector(redact(detect=["email"])).examine(CALLED, resource(blob=written))
    [left] = examined.document["content"]
    assert examined.findings
    assert left == REPLACED or MAIL.encode() not in base64.urlsafe_b64decode(left["resource"]["blob"] + "==")


def test_what_is_named_like_binary_content_in_the_servers_own_data_is_text_as_well() -> None:
    """Agents read it as it stands, and it is good base64 all the same."""
    rules = inspector(redact(detect=["credit_card"]))
    written = "AAAA" * 300 + "/4111111111111111/AA"
    left = "AAAA" * 300 + "/[redacted:credit_card]/AA"
    for member in ("structuredContent", "_meta"):
        for holder in ("blob", "data"):
            document = {member: {"a": [{"type": "image", holder: written}]}}
            expected = {member: {"a": [{"type": "image", holder: left}]}}
            assert rules.examine(CALLED, document).document == expected


def test_base64_stays_as_it_was_written() -> None:
    rules = inspector(redact(detect=["email"]))
    for written, left in (
        (packed(MAIL), packed(GONE)),
        (packed(MAIL).rstrip("="), packed(GONE).rstrip("=")),
        (packed(f"{MAIL}???").replace("/", "_"), packed(f"{GONE}???").replace("/", "_")),
    ):
        assert rules.examine(CALLED, resource(blob=written)).document == resource(blob=left)


def test_what_is_split_over_items_is_found() -> None:
    rules = inspector(redact(detect=["credit_card", "email"]))
    card = "[redacted:credit_card]"
    for texts, left in (
        (("4111 1111 ", "1111 1111"), (card, "")),
        (("a 4111 ", "1111 1111", " 1111 b"), (f"a {card}", "", " b")),
        (("mail bob@", "corp.example now"), (f"mail {GONE}", " now")),
        (("mail bob", "@corp.example", " now"), (f"mail {GONE}", "", " now")),
        (("", "4111 1111 ", "", "1111 1111", ""), ("", card, "", "", "")),
        ((f"{MAIL} 4111 1111 ", f"1111 1111 {MAIL}"), (f"{GONE} {card}", f" {GONE}")),
    ):
        assert rules.examine(CALLED, text(*texts)).document == text(*left)
    given = [{"role": "user", "content": {"type": "text", "text": part}} for part in ("4111 1111 ", "1111 1111")]
    [first, second] = rules.examine(CALLED, {"messages": given}).document["messages"]
    assert (first["content"]["text"], second["content"]["text"]) == (card, "")
    contents = [{"uri": "a:b", "text": part} for part in ("4111 1111 ", "1111 1111")]
    assert [one["text"] for one in rules.examine(CALLED, {"contents": contents}).document["contents"]] == [card, ""]
    for strange in ("x", None, 1, []):  # what is no item, before them
        left = rules.examine(CALLED, {"content": [strange, *text("4111 1111 ", "1111 1111")["content"]]}).document
        assert left == {"content": [strange, *text(card, "")["content"]]}
    blocked = inspector(block(detect=["credit_card"])).examine(CALLED, text("4111 1111 ", "1111 1111")).blocked
    assert blocked is not None


# structuredContent and its text

STYLES: list[Json] = [
    {"separators": (",", ":")},
    {"separators": (", ", ": ")},
    {"indent": 2},
    {"indent": 4},
    {"indent": "\t"},
    {"separators": (",", ":"), "ensure_ascii": False},
    {"indent": 2, "ensure_ascii": False},
]


@pytest.mark.parametrize("style", STYLES)
def test_the_text_of_structured_content_is_written_anew_in_its_style(style: Json) -> None:
    before = {"ü": 1, "mail": MAIL, "list": [MAIL, 5], "n": 4111111111111111}
    after = {"ü": 1, "mail": GONE, "list": [GONE, 5], "n": "[redacted:credit_card]"}
    rules = inspector(redact(detect=["email", "credit_card"]))
    document = text(json.dumps(before, **style), "fine", structuredContent=before)
    examined = rules.examine(CALLED, document)
    assert examined.document == text(json.dumps(after, **style), "fine", structuredContent=after)
    assert [found.path for found in examined.findings] == [
        "$.structuredContent.mail",
        "$.structuredContent.n",
        "$.structuredContent.list[0]",
    ]


def test_rules_for_one_of_them_hold_for_both() -> None:
    before = {"mail": MAIL, "other": MAIL}
    for path, after in (
        ("$.structuredContent.mail", {"mail": GONE, "other": MAIL}),
        ("$.content[*].text", {"mail": GONE, "other": GONE}),
    ):
        rules = inspector(redact(detect=["email"], paths=[path]))
        left = rules.examine(CALLED, text(json.dumps(before), structuredContent=before)).document
        assert left == text(json.dumps(after), structuredContent=after)


def test_a_text_that_says_something_else_is_a_text_like_any_other() -> None:
    rules = inspector(redact(detect=["email"], paths=["$.structuredContent"]))
    document = text(json.dumps({"a": MAIL}), structuredContent={"b": MAIL})
    assert rules.examine(CALLED, document).document == text(json.dumps({"a": MAIL}), structuredContent={"b": GONE})


def test_what_is_found_in_the_text_alone_and_cannot_be_redacted_in_both_blocks() -> None:
    before = {"password": "hunter2"}
    rules = inspector(redact("passwords", patterns=['"password": "[^"]+"']))
    examined = rules.examine(CALLED, text(json.dumps(before), structuredContent=before))
    assert examined.blocked is not None
    assert examined.blocked.what == "passwords"
    assert rules.examine(CALLED, text(json.dumps(before))).document == text("{[redacted:passwords]}")


# Binary content

PNG = {"type": "image", "mimeType": "image/png", "data": packed(b"\x89PNG" + b"\xff" * 200)}


@pytest.mark.parametrize(
    ("binary", "found"),
    [
        (Binary(), True),
        (Binary(types=("image/*",)), True),
        (Binary(types=("image/png",), over=203), True),
        (Binary(over=204), False),
        (Binary(types=("audio/*", "video/*")), False),
    ],
)
def test_binary_content_by_type_and_size(binary: Binary, found: bool) -> None:
    document = {"content": [PNG, {"type": "text", "text": "a"}]}
    examined = inspector(redact(binary=binary)).examine(CALLED, document)
    left = {"type": "text", "text": "[redacted:binary] image/png, 204 bytes"} if found else PNG
    assert examined.document["content"] == [left, {"type": "text", "text": "a"}]
    assert [one.what for one in examined.findings] == ["binary"] * found
    blocked = inspector(block(binary=binary)).examine(CALLED, document).blocked
    assert (blocked is not None) is found


def test_binary_content_anywhere() -> None:
    rules = inspector(redact(binary=Binary()))
    data = packed(b"\xff\xfe\xfd" * 3)
    gone = "[redacted:binary] application/octet-stream, 9 bytes"
    assert rules.examine(CALLED, resource(blob=data)).document == item(type="text", text=gone)
    contents = {"contents": [{"uri": "a:b", "blob": data}]}
    assert rules.examine(CALLED, contents).document == {
        "contents": [{"uri": "a:b", "mimeType": "text/plain", "text": gone}]
    }
    assert rules.examine(CALLED, {"blob": data}).blocked is not None, "there is nothing around it to take out"
    only = inspector(redact(binary=Binary(types=("image/png",))))
    assert only.examine(CALLED, resource(blob=data, mimeType="IMAGE/PNG; x=y")).findings
    assert not only.examine(CALLED, resource(blob=data, mimeType="image/pngx")).findings


def test_an_image_is_one_whatever_type_it_is_said_to_be() -> None:
    for said in ("text/plain", "IMAGE/PNG; x=y", None, 7):
        document = item(**PNG | {"mimeType": said})
        assert inspector(block(binary=Binary(types=("image/*",)))).examine(CALLED, document).blocked is not None


# Which rules hold


def test_selectors_name_what_is_answered() -> None:
    rules = inspector(
        redact("tools", detect=["email"], tools=["get_*"]), redact("logs", detect=["email"], methods=["n/*"])
    )
    for subjects, rule in (
        ((Subject(TOOL, "get_x"),), ["tools"]),
        ((Subject(TOOL, "put_x"),), []),
        ((Subject(METHOD, "n/message"),), ["logs"]),
        ((Subject(TOOL, "get_x"), Subject(METHOD, "n/message")), ["logs", "tools"]),
        ((), []),
    ):
        examined = rules.examine(subjects, text(MAIL))
        assert sorted(found.rule for found in examined.findings) == rule
        assert examined.document == (text(GONE) if rule else text(MAIL))


def test_paths_limit_the_places() -> None:
    rules = inspector(redact(detect=["email"], paths=["$.structuredContent.customer", "$.content[0]"]))
    given = {"structuredContent": {"customer": {"a": [MAIL]}, "agent": MAIL}, **text(MAIL, MAIL)}
    left = {"structuredContent": {"customer": {"a": [GONE]}, "agent": MAIL}, **text(GONE, MAIL)}
    assert rules.examine(CALLED, given).document == left


def test_exceptions_are_fine_in_every_place() -> None:
    rules = inspector(redact(detect=["email"], except_=[r"@acme\.example$"]))
    document = text("ann@acme.example", "x")
    assert rules.examine(CALLED, document).document is document
    assert rules.examine(CALLED, text(f"ann@acme.example {MAIL}")).document == text(f"ann@acme.example {GONE}")


def test_an_exception_in_one_text_excuses_nothing_in_another() -> None:
    rules = inspector(redact("all", patterns=[r"(?s)token.*"], except_=["fine"]))
    assert rules.examine(CALLED, text("token 1", "fine")).document == text("[redacted:all]", "fine")


def test_anchors_are_those_of_each_text() -> None:
    rules = inspector(redact("whole", patterns=["^secret$"]), redact("end", patterns=[r"x\z"]))
    assert rules.examine(CALLED, text("secret", "no secret", "xx", "xy")).document == text(
        "[redacted:whole]", "no secret", "x[redacted:end]", "xy"
    )


def test_patterns_do_not_see_the_words_of_the_protocol() -> None:
    document = {"content": [{"type": "text", "text": "fine", "annotations": {"audience": []}}], "isError": False}
    assert (
        inspector(block(patterns=["text|type|content|isError|annotations"])).examine(CALLED, document).blocked is None
    )


def test_a_find_of_several_rules_is_taken_out_once() -> None:
    rules = inspector(redact("long", patterns=["ab+c"]), redact("short", patterns=["b+", "cd"]))
    assert rules.examine(CALLED, text("xabbcdx")).document == text("x[redacted:long]x")


def test_block_goes_before_redact() -> None:
    rules = inspector(redact(detect=["email"]), block("b", patterns=["stop"]))
    examined = rules.examine(CALLED, text(MAIL, "stop"))
    assert examined.blocked is not None
    assert [(found.rule, found.action) for found in examined.findings] == [("contact", "redact"), ("b", "block")]


def test_shadow_rules_only_report() -> None:
    shadow = saying(block(detect=["email"]), redact(detect=["email"]), name="trial", mode="shadow")
    document = text(MAIL)
    examined = inspector(shadow).examine(CALLED, document)
    assert (examined.document, examined.blocked) == (document, None)
    assert examined.document is document
    assert examined.findings == (
        Finding("trial", "secrets", "block", "email", "$.content[0].text", True, MAIL),
        Finding("trial", "contact", "redact", "email", "$.content[0].text", True, MAIL),
    )
    both = inspector(shadow, redact("real", detect=["email"])).examine(CALLED, document)
    assert both.document == text(GONE)
    image = {"content": [PNG]}
    trial = inspector(saying(block(binary=Binary()), mode="shadow")).examine(CALLED, image)
    assert (trial.document is image, trial.blocked, len(trial.findings)) == (True, None, 1)


# Lists


def test_an_entry_of_a_list_is_redacted_or_withheld() -> None:
    rules = inspector(redact(detect=["email"]), block(detect=["aws_key"]))
    key = "AKIAIOSFODNN7EXAMPLE"
    tools = [
        {"name": "a", "description": f"ask {MAIL}"},
        {"name": MAIL, "description": "b"},
        {"name": "c", "description": key},
        {"name": "d", "inputSchema": {"properties": {"x": {"default": MAIL, "description": MAIL}}}},
        {"name": "e", "inputSchema": {"properties": {"x": {"enum": [MAIL]}}}},
        {"name": "f", "inputSchema": {"properties": {MAIL: {}}}},
        {"name": "g", "description": "fine"},
    ]
    examined = rules.examine((Subject(METHOD, "tools/list"),), {"tools": tools}, "tools")
    assert examined.blocked is None
    assert examined.document["tools"] == [
        {"name": "a", "description": f"ask {GONE}"},
        {"name": "d", "inputSchema": {"properties": {"x": {"default": GONE, "description": GONE}}}},
        {"name": "g", "description": "fine"},
    ]
    assert [(found.action, found.path) for found in examined.findings if found.action == "withhold"] == [
        ("withhold", "$.tools[1].name"),
        ("withhold", "$.tools[2].description"),
        ("withhold", "$.tools[4].inputSchema.properties.x.enum[0]"),
        ("withhold", "$.tools[5].inputSchema.properties[*]"),
    ]
    assert rules.examine((), {"tools": [], "nextCursor": MAIL}, "tools").blocked is not None, "it is no entry"


# The record


@pytest.mark.parametrize("document", [case[1] for case in REWRITTEN], ids=[case[0] for case in REWRITTEN])
def test_for_the_record_everything_is_redacted(document: Json) -> None:
    for rule in (redact(detect=["email"]), block(detect=["email"])):
        examined = inspector(rule).redacted(CALLED, document)
        assert examined.blocked is None
        assert examined.document != document
        assert MAIL not in json.dumps(examined.document)
        assert all(found.removed for found in examined.findings)


def test_for_the_record_names_are_redacted_as_well_and_shadows_are_not_asked() -> None:
    document = {"uri": MAIL, "nextCursor": MAIL}
    rules = inspector(block(detect=["email"]))
    assert rules.redacted((), document).document == {"uri": GONE, "nextCursor": GONE}
    shadow = inspector(saying(block(detect=["email"]), mode="shadow")).redacted((), document)
    assert (shadow.document is document, shadow.findings) == (True, ())


# Bounds


def test_findings_are_bounded_and_everything_is_redacted() -> None:
    document = {"structuredContent": [f"m{number}@corp.example" for number in range(MAX_FINDINGS + 50)]}
    examined = inspector(redact(detect=["email"])).examine(CALLED, document)
    assert examined.document == {"structuredContent": [GONE] * (MAX_FINDINGS + 50)}
    assert len(examined.findings) == MAX_FINDINGS
    late = inspector(redact(detect=["email"]), block(patterns=["stop"])).examine(
        CALLED, {"structuredContent": [*document["structuredContent"], "stop"]}
    )
    assert late.blocked is not None
    assert late.findings[-1] is late.blocked


def test_effort_is_bounded() -> None:
    rules = inspector(redact(detect=["email"], paths=["$.x"]), redact("all", detect=["email"]))
    started = time.process_time()
    keys = {f"m{number}@corp.example": number for number in range(20_000)}
    left = rules.examine(CALLED, {"structuredContent": keys}).document["structuredContent"]
    assert (len(left), list(left.values())) == (20_000, list(range(20_000)))
    assert all(key.startswith(GONE) for key in left)
    structured = {"a": MAIL}
    document = text(*[json.dumps(structured)] * 2_000, structuredContent=structured)
    left = rules.examine(CALLED, document).document
    assert left == text(*[json.dumps({"a": GONE})] * 2_000, structuredContent={"a": GONE})
    rules.examine(CALLED, text(*["a@b.example"] * 2_000))
    assert time.process_time() - started < 5


def test_deep_and_strange_keys_are_shown_without_harm() -> None:
    deep: Any = MAIL
    for _ in range(200):
        deep = {"a" * 10: deep}
    [found] = inspector(redact(detect=["email"])).examine(CALLED, {"structuredContent": deep}).findings
    assert len(found.path) == 256
    strange = {"structuredContent": {"a b\n": {"": MAIL}}}
    [found] = inspector(redact(detect=["email"])).examine(CALLED, strange).findings
    assert found.path == "$.structuredContent['a b\\n']['']"


def test_all_texts_are_gathered() -> None:
    texts: list[str] = []
    gather({"k": ["a", {"text": "b"}, 12345678, 1.5], "type": "text", "blob": packed("inner"), "n": 7}, texts)
    assert sorted(texts) == sorted(["k", "a", "b", "12345678", "inner", packed("inner"), "n"])


# Whose rules they are


def test_inspectors_are_those_of_the_agents_policies() -> None:
    mine = saying(redact(detect=["email"]), servers=["zen*"])
    bots = saying(block(patterns=["x"]), name="bots")
    policies = [mine, saying(name="empty"), bots.__class__(**{**_fields(bots), "agents": ("key:bot",)})]
    made = Inspectors(policies)
    bot, eve = Principal("key:bot", "apiKey"), Principal("key:eve", "apiKey")
    assert made.find(eve, "tools") is None
    assert made.find(bot, "tools") is not None
    assert made.find(bot, "tools") is made.find(bot, "tools")
    zen = made.find(eve, "zendesk")
    assert zen is not None
    assert zen is made.find(bot, "zendesk"), "who is under the same rules shares one"
    assert zen.examine((), text(MAIL)).document == text(GONE)
    for number in range(MAX_AGENTS + 10):
        assert made.find(Principal(f"key:{number}", "apiKey"), "tools") is None
    assert len(made._known) <= MAX_AGENTS
    assert Inspectors([]).find(bot, "tools") is None


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}
