"""What grows: CPU with the number of rules, memory with calls and with sessions."""

from __future__ import annotations

import socket

from benchmarks.bench import Bench, say
from benchmarks.processes import BenchmarkError
from benchmarks.results import Section, mib
from benchmarks.scenarios.cpu import per_call
from benchmarks.targets import Setup, Target
from benchmarks.wire import Request, initialize_request, initialized_notification, tools_call

FEW, MANY = 10, 1000
WARM_CALLS, WARM_SESSIONS = 20_000, 500
CHUNK = 100_000


def rules(bench: Bench) -> list[Section]:
    """Two sidecars that differ in the number of their rules, in interleaved rounds."""
    with bench.spinning() as spinning:
        return [_rules(spinning)]


def _rules(bench: Bench) -> Section:
    few, many = (f"{count} rules" for count in (FEW, MANY))
    samples = per_call(bench, {few: Setup(rules=FEW, conditions=True), many: Setup(rules=MANY, conditions=True)})
    section = Section(
        "Growth with rules", "CPU µs of the sidecar for each call; every rule has conditions.", ("rules", "CPU µs")
    )
    section.rows = [(name, f"{samples.median('cpu', name):.1f}") for name in (few, many)]
    section.samples = samples.plain()
    section.figures = {"rules": samples.ratio("cpu", many, few)}
    return section


def memory(bench: Bench) -> list[Section]:
    """One sidecar, warmed up; then all the calls, then all the sessions, none of them ever deleted."""
    target = bench.sidecar()
    try:
        bench.load.count(target.port, tools_call(), WARM_CALLS)
        sessions(target, WARM_SESSIONS)
        marks = [target.usage().rss]
        _calls(bench, target)
        marks.append(target.usage().rss)
        sessions(target, bench.scale.sessions)
        marks.append(target.usage().rss)
    finally:
        target.stop()
    section = Section(
        "Growth with calls and sessions",
        f"RSS of one sidecar in MiB, from {WARM_CALLS:,} calls and {WARM_SESSIONS} sessions of warm-up on.",
        ("after", "RSS", "grown"),
    )
    after = ("warm-up", f"{bench.scale.calls:,} calls", f"and {bench.scale.sessions:,} sessions")
    section.rows = [(text, mib(rss), mib(rss - marks[0])) for text, rss in zip(after, marks, strict=True)]
    section.samples = {"rss": {"sidecar": [float(rss) for rss in marks]}}
    section.figures = {"growth": (marks[-1] - marks[0]) / (1 << 20)}
    return [section]


def _calls(bench: Bench, target: Target) -> None:
    left = bench.scale.calls
    while left > 0:
        bench.load.count(target.port, tools_call(), min(left, CHUNK))
        left -= CHUNK
        target.tidy()
        say(f"  {max(left, 0):,} calls to go")


def sessions(target: Target, count: int) -> None:
    """Begins sessions one after the other: initialize, initialized, one tools/call."""
    with _Connection(target.port) as connection:
        for number in range(count):
            head, _ = connection.exchange(initialize_request(), 200)
            session = _header(head, b"mcp-session-id")
            connection.exchange(initialized_notification(session), 202)
            _, body = connection.exchange(tools_call(session), 200)
            if b'"isError":false' not in body:
                raise BenchmarkError(f"session {number}: {body[:300]!r}")
            if number % 10_000 == 9_999:
                target.tidy()
                say(f"  {count - number - 1:,} sessions to go")


class _Connection:
    """A keep-alive connection for answers with Content-Length: http.client costs five times as much."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def exchange(self, request: Request, expected: int) -> tuple[bytes, bytes]:
        """Head (lower case) and body. Raises BenchmarkError for another status than `expected`."""
        self.socket.sendall(request.raw(self.port))
        data = self._more(b"")
        while b"\r\n\r\n" not in data:
            data = self._more(data)
        head, _, body = data.partition(b"\r\n\r\n")
        raw_head, head = head, head.lower()
        if int(head.split(None, 2)[1]) != expected:
            raise BenchmarkError(f"expected {expected}, got {data[:400]!r}")
        length = int(_header(head, b"content-length") or 0)
        while len(body) < length:
            body = self._more(body)
        return raw_head, body

    def _more(self, data: bytes) -> bytes:
        part = self.socket.recv(65536)
        if not part:
            raise BenchmarkError(f"the sidecar closed a connection: {data[:400]!r}")
        return data + part


def _header(head: bytes, name: bytes) -> str:
    """A header's value, its case kept; empty where it is absent."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode("latin-1")
    return ""
