"""What inspecting one message costs: `python -m benchmarks.inspect_message`.

Ten detectors and five patterns in two rules, one of which blocks; microseconds for one result, the best of several
rounds. A clean result comes back as the same object. What is measured is what is installed: run it from the sources
(slower) or with the Python of an environment that has the compiled wheel.
"""

import base64
import json
import timeit
from typing import Any

import openmcp.sidecar.inspection.inspector as measured_module
from benchmarks.inspect_text import ENGLISH, GERMAN, KIB, PATTERNS, cut
from openmcp.config.detectors import DETECTORS
from openmcp.config.model import Policy, ResponseAction, ResponseRule
from openmcp.identity.principal import ANONYMOUS
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.types import TOOL, Subject

SUBJECTS = (Subject(TOOL, "search"),)
TICKETS: dict[str, Any] = {
    "tickets": [
        {"id": number, "title": "Export of invoices is slow", "state": "open", "tags": ["billing", "export"]}
        for number in range(4)
    ]
}


def text(*texts: str, **more: Any) -> dict[str, Any]:
    """A result of text items."""
    return {"content": [{"type": "text", "text": one} for one in texts], "isError": False, **more}


def results() -> dict[str, dict[str, Any]]:
    """Results by what they are."""
    written = json.dumps(TICKETS)
    filler = cut(ENGLISH, KIB - 2 * len(written) - 100) if 2 * len(written) + 100 < KIB else ""
    written_by = TICKETS | {"by": "jane@customer.example"}
    blob = base64.b64encode(bytes(range(256)) * 400).decode()
    return {
        "one text of 1 KiB": text(cut(ENGLISH, KIB - 70)),
        "1 KiB: structuredContent and its text": text(written, filler, structuredContent=TICKETS),
        "1 KiB: ten texts": text(*(cut(ENGLISH, 64) for _ in range(10))),
        "1 KiB of German": text(cut(GERMAN, KIB - 70)),
        "100 KiB of text": text(cut(ENGLISH, 100 * KIB)),
        "an image of 100 KiB": {"content": [{"type": "image", "mimeType": "image/png", "data": blob}]},
        "1 KiB, one address redacted": text(cut(ENGLISH, KIB - 100), "write to jane@customer.example"),
        "1 KiB, one address in both": text(json.dumps(written_by), structuredContent=written_by),
    }


def main() -> None:
    """Measure and print."""
    ten = tuple(name for name in DETECTORS if name not in ("hidden_text", "ipv4_private", "email"))
    rules = (
        ResponseRule(name="secrets", action=ResponseAction.BLOCK, detect=ten),
        ResponseRule(name="contact", action=ResponseAction.REDACT, detect=("email",), patterns=tuple(PATTERNS)),
    )
    inspector = Inspectors([Policy(name="p", servers=("s",), responses=rules)]).find(ANONYMOUS, "s")
    assert inspector is not None
    compiled = not str(measured_module.__file__).endswith(".py")
    print(f"inspection {'compiled' if compiled else 'from its sources'}")
    for name, result in results().items():
        examined = inspector.examine(SUBJECTS, result)
        timer = timeit.Timer(lambda result=result: inspector.examine(SUBJECTS, result))
        number, _ = timer.autorange()
        rounds = max(1, number // 4)
        once = min(timer.repeat(7, rounds)) / rounds
        size = len(json.dumps(result, separators=(",", ":")))
        print(f"{name:40}{size:8} bytes {once * 1e6:9.1f} µs   {len(examined.findings)} found")


if __name__ == "__main__":
    main()
