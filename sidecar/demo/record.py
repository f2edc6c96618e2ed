"""The record read back: what the sidecar wrote about the story, one row for each call."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

UNNAMED: Final = ""
CLIENT_ERROR: Final = 400
CLIP: Final = 100
"""Characters of the errors of a configuration that was refused; the sidecar's log has them all."""
NO_RULE: Final = "(no rule)"
"""What decides where no rule matches: denied by default."""


@dataclass
class Row:
    """All lines of one exchange. `began` is seconds since 1970, `total_ms` None until it was answered."""

    began: float
    agent: str
    era: str
    what: str
    decision: str
    rule: str
    total_ms: float | None = None
    notifications: list[str] = field(default_factory=list)

    @property
    def summary(self) -> tuple[str, str, str]:
        """Who, what, and what was decided: what the story can foretell."""
        return self.agent, self.what, self.decision


class Record:
    """The file, read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._open: dict[str, Row] = {}
        self.lines: list[str] = []

    def more(self) -> Iterator[Row]:
        """The exchanges that have ended since the last look, and reloads. A line that is not whole yet is left."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                found = stream.read()
        except FileNotFoundError:  # nothing happened yet
            return
        whole = found[: found.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            self.lines.append(line)
            ended = self._take(json.loads(line))
            if ended is not None:
                yield ended

    def _take(self, line: dict[str, Any]) -> Row | None:
        """The last line of an exchange is the one that says how long it took."""
        if line["event"] == "reload":
            refused = line.get("reason", UNNAMED) if line["outcome"] != "ok" else UNNAMED
            return _shown({**line, "decision": line["outcome"]}, what=f"reload {refused[:CLIP]}".strip(), rule=UNNAMED)
        if line["event"] == "approval" and "call" not in line:
            return None  # what the human did; the call that it was for has a row
        row = self._open.get(line.get("call", UNNAMED))
        if row is None:
            return self._begin(line)
        if line["event"] == "approval":
            row.decision = "approved" if line["outcome"] == "used" else row.decision
            return None
        if line["event"] == "notification":
            row.notifications.append(line["method"])
        row.total_ms = _total_ms(line)
        return self._open.pop(line["call"]) if row.total_ms is not None else None

    def _begin(self, line: dict[str, Any]) -> Row | None:
        if "decision" in line:
            self._open[line["call"]] = _row(line)
        elif line.get("status", 0) >= CLIENT_ERROR:
            return _shown(line, what=f"HTTP {line['status']}", rule=line.get("outcome", UNNAMED))
        return None


def _row(line: dict[str, Any]) -> Row:
    what = " ".join(filter(None, (line.get("method"), line.get("name"))))
    return _shown(line, what=what, rule=line.get("rule") or NO_RULE)


def _shown(line: dict[str, Any], *, what: str, rule: str) -> Row:
    return Row(
        began=datetime.fromisoformat(line["time"]).timestamp(),
        agent=line.get("agent", UNNAMED).removeprefix("key:"),
        era=line.get("era", UNNAMED),
        what=what,
        decision=line.get("decision", UNNAMED),
        rule=rule,
        total_ms=_total_ms(line),
    )


def _total_ms(line: dict[str, Any]) -> float | None:
    spent = line.get("latency")
    return spent["total_us"] / 1000 if spent is not None else None
