"""Export by OTLP where something is in its way: no collector, a slow one, a wrong certificate, a missing package."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from openmcp.config.model import Otlp, Secret
from openmcp.sidecar import build
from openmcp.sidecar.build import telemetry
from openmcp.sidecar.telemetry import otlp
from openmcp.sidecar.telemetry.metrics import Metrics
from openmcp.sidecar.telemetry.spans import Ended, Shape
from openmcp.sidecar.telemetry.values import TraceContext
from tests.support.collector import collector, exporting
from tests.support.gate import Gate, call, configuration
from tests.support.hostile import Hostile, hostile
from tests.support.process import sidecar
from tests.support.raw import connect

PATIENCE = 20.0


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt for each export, as the next would be 0.8 s later, and none waits for more to come."""
    monkeypatch.setattr(otlp, "TIMEOUT", 0.7)
    monkeypatch.setattr(otlp, "DELAY", 0.01)


def number(it: Gate, name: str, signal: str = "traces") -> float:
    """A counter of the export as a scrape shows it."""
    line = f'openmcp_otlp_{name}_total{{signal="{signal}"}} '
    found = [text for text in it.app.metrics.exposition().decode().splitlines() if text.startswith(line)]
    assert len(found) == 1
    return float(found[0].removeprefix(line))


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


def told(caplog: pytest.LogCaptureFixture, signal: str) -> list[str]:
    """What was logged about the export of a signal, up to the address."""
    lines = [record.getMessage() for record in caplog.records if record.name == "openmcp.otlp"]
    return [line.split(" to http")[0] for line in lines if line.startswith(signal)]


@pytest.mark.usefixtures("impatient")
async def test_a_collector_that_is_away_harms_no_call_and_is_told_of_once(
    tmp_path: Path, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with collector() as gone:
        pass
    async with exporting(tmp_path, server, gone.url) as it, it.connect() as agent:
        for failures in (1, 2):
            assert (await agent.ask(call())).status == 200
            await until(lambda failures=failures: number(it, "failures") >= failures)  # type: ignore[misc]  # mypy cannot infer a lambda with a bound default
        assert (number(it, "exported"), number(it, "dropped")) == (0, 4)
        assert told(caplog, "traces") == ["traces cannot be exported"]
        assert "UNAVAILABLE" in caplog.text
        with collector(port=int(gone.url.rsplit(":", 1)[1])) as back:
            calls = 2
            while len(told(caplog, "traces")) < 2:  # the first may be too late for a connection that was away
                assert (await agent.ask(call())).status == 200
                calls += 1
                await until(lambda spans=2 * calls: number(it, "exported") + number(it, "dropped") == spans)  # type: ignore[misc]  # as above
            await it.app.stop(patience=0.0)
        assert told(caplog, "traces") == ["traces cannot be exported", "traces are exported"]
        assert number(it, "exported") == len(back.spans) > 0
        assert back.metrics["openmcp_otlp_dropped"].value(signal="traces") == number(it, "dropped")
        assert back.metrics["mcp.server.operation.duration"].points[0][1].count == calls, "metrics make up for it"


@pytest.mark.usefixtures("impatient")
async def test_what_a_collector_refuses_is_dropped_and_counted(
    tmp_path: Path, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    with collector() as received:
        received.refuse = grpc.StatusCode.UNAUTHENTICATED
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            assert (await agent.ask(call())).status == 200
            await until(lambda: number(it, "dropped") == 2)
            assert number(it, "failures") == 1, "it is no use to try again"
        assert (number(it, "failures", "metrics"), number(it, "dropped", "metrics")) == (1, 0), (
            "the next export has them"
        )
    assert "UNAUTHENTICATED" in caplog.text
    assert "the test said so" in caplog.text


async def test_a_collector_that_says_nothing_holds_up_the_end_for_two_seconds_at_most(
    tmp_path: Path, server: Hostile
) -> None:
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(PATIENCE), "127.0.0.1", 0)
    endpoint = "http://127.0.0.1:{}".format(*silent.sockets[0].getsockname()[1:])
    took = [PATIENCE]
    while took[-1] >= otlp.DRAIN + 1:
        assert len(took) < 4, "not because this machine has stalled"
        async with exporting(tmp_path, server, endpoint, otlp.DRAIN) as it:
            async with it.connect() as agent:
                assert (await agent.ask(call())).status == 200
            began = time.monotonic()
            await it.app.stop(patience=0.0)
            took.append(time.monotonic() - began)
        await until(lambda: "otlp" not in {thread.name for thread in threading.enumerate()})
        assert number(it, "dropped") == 2
    assert took[-1] >= otlp.DRAIN - 0.1
    silent.close()


def ended(trace: int, asked: float = 0.0, flags: int = 1) -> Ended:
    shape = Shape("POST", "s", "tools/call", "t", "", "a", "", "allow", "", "", "ok", 0, 200, "http://127.0.0.1:1/")
    context = TraceContext(f"{trace:032x}", f"{trace:016x}", flags)
    return Ended(shape, context, "", None, "c", "", None, "", 2_000_000_000, 1.0, asked, 0.5, 0.0)


def exporter(endpoint: str = "http://127.0.0.1:1", **settings: Any) -> otlp.Exporter:
    made = telemetry.exporter(Otlp(endpoint=endpoint, **settings), "1", Metrics("1"))
    assert made is not None
    return made


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "QUEUE", 3)
    with collector() as received:
        made = exporter(received.url)
        for trace in range(1, 6):
            made.take(ended(trace))
        made.take(ended(6, asked=-1.0))
        made.take(ended(7, flags=0))
        made.start()
        for line in range(9):
            logging.getLogger("openmcp.test").error("%d", line)
        await made.stop(PATIENCE)
    assert [int(span.trace, 16) for span in received.spans if span.kind == "SERVER"] == [1, 2, 3]
    metrics = received.metrics
    assert metrics["mcp.server.operation.duration"].points[0][1].count == 7, "counted before anything is dropped"
    assert metrics["mcp.client.operation.duration"].points[0][1].count == 6
    assert made._traces.dropped == 5  # two exchanges of two spans, and one of one
    assert made._logs.dropped + len(received.logs) == 9
    assert made._logs.dropped > 0


async def test_more_than_a_batch_goes_out_in_several() -> None:
    with collector() as received:
        made = exporter(received.url)
        for trace in range(1, otlp.BATCH * 2 + 2):
            made.take(ended(trace))
        made.start()
        await made.stop(PATIENCE)
    sizes = [len(group.scope_spans[0].spans) for it in received.requests for group in getattr(it, "resource_spans", [])]
    assert sizes == [otlp.BATCH * 2, otlp.BATCH * 2, 2]
    assert {(span.start, span.end) for span in received.spans if span.kind == "SERVER"} == {(10**9, 2 * 10**9)}
    assert {(span.start, span.end) for span in received.spans if span.kind == "CLIENT"} == {(10**9, 15 * 10**8)}


async def test_tls_and_headers(tmp_path: Path, server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("COLLECTOR_TOKEN", "Bearer t0ken")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    headers = {"authorization": {"env": "COLLECTOR_TOKEN"}}
    with collector(certificate=(certificate.private_key_pem.bytes(), chain)) as received:
        ca = {"file": str(tmp_path / "ca.pem")}
        async with exporting(tmp_path, server, received.url, ca=ca, headers=headers) as it, it.connect() as agent:
            assert (await agent.ask(call())).status == 200
    assert len(received.spans) == 2
    assert {metadata["authorization"] for metadata in received.metadata} == {"Bearer t0ken"}


@pytest.mark.usefixtures("impatient")
async def test_a_collector_of_another_authority_gets_nothing(
    tmp_path: Path, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    with collector(certificate=(certificate.private_key_pem.bytes(), chain)) as received:
        ca = {"file": str(tmp_path / "other.pem")}
        async with exporting(tmp_path, server, received.url, ca=ca) as it, it.connect() as agent:
            assert (await agent.ask(call())).status == 200
            await until(lambda: number(it, "failures") >= 1)
    assert not received.requests
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ca": Secret(file="/nowhere/ca.pem")}, "telemetry.otlp: file /nowhere/ca.pem cannot be read"),
        ({"headers": (("x", Secret(env="NO_SUCH_TOKEN")),)}, "telemetry.otlp: environment variable NO_SUCH_TOKEN"),
        ({"headers": (("x-key", Secret(env="ODD")),)}, "telemetry.otlp: the value of the header x-key has characters"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(
    settings: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", "a\nb")
    with pytest.raises(build.BuildError, match=error):
        exporter("https://127.0.0.1:1", **settings)


@pytest.mark.parametrize("interval", ["0", "-1", "1s"])
def test_an_interval_that_is_none_is_said_at_the_start(interval: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    with pytest.raises(build.BuildError, match=f"OTEL_METRIC_EXPORT_INTERVAL is to be a number .* not '{interval}'"):
        exporter()


def test_a_missing_extra_is_said_with_its_remedy(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    config = configuration("http://127.0.0.1:1/mcp") | {"telemetry": {"otlp": {"endpoint": "http://127.0.0.1:4317"}}}
    file.write_text(str(config).replace("'", '"'))
    script = "import sys; sys.modules['opentelemetry'] = None; from openmcp.sidecar.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "-c", str(file)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "telemetry.otlp needs the extra: pip install 'openmcp[otlp]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_collector_nothing_of_it_is_imported() -> None:
    script = (
        "import sys, openmcp.sidecar.app; print([name for name in sys.modules if name.startswith(('opentel', 'grpc'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "[]\n"
    assert telemetry.exporter(None, "1", Metrics("1")) is None


async def test_a_process_that_is_told_to_end_exports_what_it_has(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url)
    del config["listen"]
    audit = {"output": {"file": str(tmp_path / "audit.jsonl")}}

    def ask(url: str) -> int:
        async def talk() -> int:
            async with connect(url, "/server", x_api_key="key-of-alice") as agent:
                return (await agent.ask(call())).status

        return asyncio.run(talk())

    with collector() as received:
        config["telemetry"] = {"audit": audit, "otlp": {"endpoint": received.url}}

        def run() -> int:
            with sidecar(config) as running:
                return ask(running.url)

        assert await asyncio.to_thread(run) == 200
    assert [span.kind for span in received.spans] == ["SERVER", "CLIENT"]
    assert any(line[2].startswith("serving 1 server(s)") for line in received.logs)
    assert received.metrics["mcp.server.operation.duration"].points[0][1].count == 1
