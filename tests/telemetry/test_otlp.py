"""Export by OTLP: a real sidecar, a real server behind it, and a collector that tells what it got."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.collector import Collector, Span, collector, exporting
from tests.support.gate import ask_modern, call, initialize, message
from tests.support.hostile import Hostile, Reply, Request, hostile

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
NETWORK = {"network.transport": "tcp", "network.protocol.name": "http", "network.protocol.version": "1.1"}
TOOL = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "allowed"}
ALLOWED = {"openmcp.decision": "allow", "openmcp.policy": "test", "openmcp.rule": "tools"}
ALICE = {"openmcp.agent": "key:alice", "openmcp.identified_by": "apiKey", "openmcp.server": "server"}


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


def one(spans: list[Span], kind: str, **attributes: Any) -> Span:
    """The only span of this kind that has these attributes (with `.` written as `__`)."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    found = [span for span in spans if span.kind == kind and wanted.items() <= span.attributes.items()]
    assert len(found) == 1, (spans, wanted)
    return found[0]


def port(server: Hostile) -> int:
    return int(server.url.rsplit(":", 1)[1].removesuffix("/mcp"))


# Traces


async def test_a_call_is_two_spans_between_the_agents_and_the_servers(tmp_path: Path, server: Hostile) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            assert (await agent.ask(call(identifier=7), traceparent=SAMPLED, tracestate="v=1")).status == 200
            ended = await it.recorded(event="response")
        assert received.schemas == {"https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"}
        ours, onward = received.spans
    assert ours == Span(
        name="tools/call allowed",
        kind="SERVER",
        trace=TRACE,
        id=ended["span"],
        parent=PARENT,
        start=ours.start,
        end=ours.end,
        attributes={
            **TOOL,
            **NETWORK,
            **ALLOWED,
            **ALICE,
            "openmcp.outcome": "ok",
            "openmcp.call": ended["call"],
            "mcp.protocol.version": "2025-03-26",
            "jsonrpc.request.id": "7",
            "http.request.method": "POST",
            "http.response.status_code": 200,
        },
        error=False,
        message="",
        flags=0x301,  # sampled; the parent is known to be remote
        state="v=1",
    )
    assert onward == Span(
        name="tools/call allowed",
        kind="CLIENT",
        trace=TRACE,
        id=onward.id,
        parent=ours.id,
        start=onward.start,
        end=onward.end,
        attributes={
            **TOOL,
            **NETWORK,
            "openmcp.server": "server",
            "server.address": "127.0.0.1",
            "server.port": port(server),
            "mcp.protocol.version": "2025-03-26",
            "jsonrpc.request.id": "7",
            "http.request.method": "POST",
        },
        error=False,
        message="",
        flags=0x101,  # sampled; the parent is known to be ours
        state="v=1",
    )
    assert ours.start <= onward.start < onward.end <= ours.end
    total, upstream = ended["latency"]["total_us"], ended["latency"]["upstream_us"]
    assert abs((ours.end - ours.start) / 1000 - total) <= 1
    assert 0 < (onward.end - onward.start) / 1000 <= upstream + 1
    assert server.requests[0].header("traceparent") == f"00-{TRACE}-{onward.id}-01", (
        "the server's spans hang below ours"
    )


async def test_a_modern_call_tells_the_server_its_parent_in_the_metadata_too(tmp_path: Path, server: Hostile) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            document = call()
            document["params"]["_meta"] = {"traceparent": SAMPLED}
            assert (await ask_modern(agent, document)).status == 200
        ours, onward = received.spans
    assert (ours.parent, onward.parent) == (PARENT, ours.id)
    assert ours.attributes["mcp.protocol.version"] == "2026-07-28"
    sent = server.requests[0]
    assert sent.json["params"]["_meta"]["traceparent"] == f"00-{TRACE}-{onward.id}-01" == sent.header("traceparent")


async def test_a_session_is_named_by_its_fingerprint(tmp_path: Path, server: Hostile) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            token = await initialize(agent)
            await agent.ask(message("notifications/initialized", None))
            recorded = await it.recorded(event="response", method="initialize")
        spans = received.spans
    began = one(spans, "SERVER", mcp__method__name="initialize")
    assert began.name == "initialize"
    assert began.attributes["mcp.protocol.version"] == "2025-11-25", "the one agreed on"
    noted = one(spans, "SERVER", mcp__method__name="notifications/initialized")
    assert "jsonrpc.request.id" not in noted.attributes
    assert {span.attributes["mcp.session.id"] for span in spans} == {recorded["session"]}
    everything = b"".join(request.SerializeToString() for request in received.requests)
    assert b"upstream-session" not in everything
    assert token.encode() not in everything
    assert b"key-of-alice" not in everything


async def answer_badly(request: Request, reply: Reply) -> None:
    """What a tool is called decides how it ends."""
    identifier = request.json.get("id")
    name = request.json["params"].get("name", request.json["params"].get("uri", ""))
    if name == "allowed-fails":
        await reply.result({"content": [], "isError": True})
    elif name == "allowed-large":  # beyond what is read on the event loop
        error = {"code": -32000, "message": "the secret is 7", "data": "x" * 600_000}
        await reply.message({"jsonrpc": "2.0", "id": identifier, "error": error})
    elif name in ("allowed-wrong", "file:///public/a"):
        error = {"code": -32602, "message": "the secret is 7"}
        await reply.message({"jsonrpc": "2.0", "id": identifier, "error": error})
    elif name == "allowed-gone":
        reply.close()
    elif name == "allowed-stream":
        await reply.stream()
        error = {"code": -32000, "message": "the secret is 7"}
        await reply.event({"jsonrpc": "2.0", "id": identifier, "error": error})
        await reply.end()
    elif name == "allowed-cut":
        await reply.stream()
        reply.close()
    else:
        await reply.accepted()


Row = tuple[dict[str, Any], str, tuple[str | None, str | None, str], tuple[str | None, str | None] | None]
ENDINGS: list[Row] = [
    # a message, its span's name, (error.type, code, status message) of our span, (error.type, code) of the server's
    (call("allowed-fails"), "tools/call allowed-fails", ("tool_error", None, ""), ("tool_error", None)),
    (call("allowed-wrong"), "tools/call allowed-wrong", (None, "-32602", ""), ("-32602", "-32602")),
    (
        call("allowed-gone"),
        "tools/call allowed-gone",
        ("-32603", "-32603", "the MCP server closed the connection before it answered"),
        ("closed", None),
    ),
    (call("allowed-large"), "tools/call allowed-large", ("-32000", "-32000", ""), ("-32000", "-32000")),
    (call("allowed-stream"), "tools/call allowed-stream", ("-32000", "-32000", ""), ("-32000", "-32000")),
    (
        call("allowed-cut"),
        "tools/call allowed-cut",
        ("-32603", "-32603", "the MCP server closed the connection before it answered"),
        ("closed", None),
    ),
    (call("forbidden-thing"), "tools/call", ("tool_error", None, ""), None),
    (call("made-up"), "tools/call", ("tool_error", None, ""), None),
    (message("resources/read", uri="file:///public/a"), "resources/read", (None, "-32602", ""), ("-32602", "-32602")),
    (
        message("resources/read", uri="file:///private"),
        "resources/read",
        ("40300", "40300", "Denied: no policy allows this"),
        None,
    ),
    (
        message("prompts/get", name="forbidden"),
        "prompts/get",
        ("40300", "40300", "Denied: denied by policy test"),
        None,
    ),
    (message("no/such"), "POST", (None, "-32601", ""), None),
    (message("notifications/unknown", None), "POST", (None, None, ""), None),
    ({"jsonrpc": "2.0"}, "POST", (None, "-32600", ""), None),
]


@pytest.mark.parametrize(("document", "name", "ours", "theirs"), ENDINGS, ids=[str(row[0])[18:70] for row in ENDINGS])
async def test_how_a_call_ended_is_told_by_code_and_class(
    tmp_path: Path,
    document: dict[str, Any],
    name: str,
    ours: tuple[str | None, str | None, str],
    theirs: tuple[str | None, str | None] | None,
) -> None:
    with collector() as received:
        async with (
            hostile(answer_badly) as server,
            exporting(tmp_path, server, received.url) as it,
            it.connect() as agent,
        ):
            await agent.ask(document)
        assert b"secret" not in b"".join(request.SerializeToString() for request in received.requests)
        spans = received.spans
    said = one(spans, "SERVER")
    assert said.name == name
    code, error = said.attributes.get("rpc.response.status_code"), said.attributes.get("error.type")
    assert (error, code, said.error) == (ours[0], ours[1], ours[0] is not None)
    assert said.message == ours[2]
    if theirs is None:
        assert len(spans) == 1, "the server was not asked"
        return
    asked = one(spans, "CLIENT")
    code, error = asked.attributes.get("rpc.response.status_code"), asked.attributes.get("error.type")
    assert (error, code, asked.error, asked.message) == (theirs[0], theirs[1], theirs[0] is not None, "")


@pytest.mark.parametrize(
    ("sample", "given", "exported", "flags"),
    [
        (0, None, False, "00"),
        (1, None, True, "01"),
        (0, SAMPLED, True, "01"),
        (1, SAMPLED.removesuffix("1") + "0", False, "00"),
    ],
)
async def test_the_agents_word_on_sampling_comes_first(
    tmp_path: Path, server: Hostile, sample: float, given: str | None, exported: bool, flags: str
) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url, sample=sample) as it, it.connect() as agent:
            assert (await agent.ask(call(), traceparent=given)).status == 200
            ended = await it.recorded(event="response")
        spans = received.spans
    told = str(server.requests[0].header("traceparent")).split("-")
    assert told[3] == flags
    assert [span.kind for span in spans] == (["SERVER", "CLIENT"] if exported else [])
    assert told[2] == (spans[1].id if exported else ended["span"]), "an id that somebody can find"
    counted = received.metrics["mcp.server.operation.duration"]
    assert [point.count for _, point in counted.points] == [1], "durations are of all calls"


async def test_a_part_of_the_traces_is_chosen_by_their_ids(tmp_path: Path, server: Hostile) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url, sample=0.5) as it, it.connect() as agent:
            for identifier in range(40):
                assert (await agent.ask(call(identifier=identifier))).status == 200
    told = [str(request.header("traceparent")).split("-") for request in server.requests]
    chosen = {trace for _, trace, _, flags in told if flags == "01"}
    assert chosen == {trace for _, trace, _, _ in told if int(trace, 16) % 2**56 >= 2**55}
    assert chosen == {span.trace for span in received.spans}
    assert 0 < len(chosen) < 40


# Metrics


async def test_durations_have_the_buckets_and_names_of_the_conventions(tmp_path: Path, server: Hostile) -> None:
    began = time.monotonic()
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            await initialize(agent)
            for name in ("allowed", "allowed", "forbidden"):
                await agent.ask(call(name))
            await agent.ask(message("prompts/get", name="allowed"))
            await agent.ask(message("resources/read", uri="file:///private"))
            assert (await agent.ask(method="DELETE")).status == 200
        metrics = received.metrics
    common = {**NETWORK, "mcp.protocol.version": "2025-11-25", "openmcp.server": "server"}
    endpoint = {"server.address": "127.0.0.1", "server.port": port(server)}
    tool = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
    prompt = {"mcp.method.name": "prompts/get", "gen_ai.prompt.name": "allowed"}
    operations = metrics["mcp.server.operation.duration"]
    assert (operations.kind, operations.unit) == ("histogram", "s")
    assert {tuple(sorted(labels.items())): point.count for labels, point in operations.points} == {
        tuple(sorted((common | labels).items())): count
        for labels, count in (
            ({"mcp.method.name": "initialize"}, 1),
            (tool | {"gen_ai.tool.name": "allowed"}, 2),
            (tool | {"gen_ai.tool.name": "forbidden", "error.type": "tool_error"}, 1),
            (prompt, 1),
            ({"mcp.method.name": "resources/read", "error.type": "40300", "rpc.response.status_code": "40300"}, 1),
        )
    }
    point = operations.value(gen_ai__tool__name="allowed")
    assert tuple(point.explicit_bounds) == (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
    assert sum(point.bucket_counts) == 2
    assert 0 < point.sum < time.monotonic() - began
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
    calls = metrics["mcp.client.operation.duration"]
    assert [labels for labels, _ in calls.points if "gen_ai.tool.name" in labels] == [
        common | tool | {"gen_ai.tool.name": "allowed"} | endpoint
    ]
    assert calls.value(gen_ai__tool__name="allowed").sum < point.sum
    sessions = metrics["mcp.server.session.duration"], metrics["mcp.client.session.duration"]
    assert [[labels for labels, _ in metric.points] for metric in sessions] == [[common], [common | endpoint]]
    assert [point.count for metric in sessions for _, point in metric.points] == [1, 1]
    assert 0 <= sessions[0].points[0][1].sum <= time.monotonic() - began + 1, "which began at a whole second"


async def test_our_own_metrics_are_exported_with_the_values_and_names_of_a_scrape(
    tmp_path: Path, server: Hostile
) -> None:
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            for name in ("allowed", "allowed", "forbidden"):
                await agent.ask(call(name))
            await it.recorded(name="forbidden", event="response")
            scraped = list(text_string_to_metric_families(it.app.metrics.exposition().decode()))
        metrics = received.metrics
    ours = {"openmcp_requests": "sum", "openmcp_connects": "sum", "openmcp_build_info": "gauge"}
    assert {name: metrics[name].kind for name in ours} == ours
    assert metrics["openmcp_audit_buffered_bytes"].unit == "By"
    for family in scraped:
        if family.name in ours:
            points = [(sample.labels, sample.value) for sample in family.samples]
            assert points == metrics[family.name].points, family.name
            ours.pop(family.name)
        elif family.name == "openmcp_request_duration_seconds":
            duration = metrics[family.name]
            assert (duration.kind, duration.unit) == ("histogram", "s")
            point = duration.value(server="server", method="tools/call")
            scale = [sample for sample in family.samples if sample.name.endswith("_bucket")]
            assert list(itertools.accumulate(point.bucket_counts)) == [sample.value for sample in scale]
            assert [str(bound) for bound in point.explicit_bounds] == [sample.labels["le"] for sample in scale[:-1]]
            assert [point.sum] == [sample.value for sample in family.samples if sample.name.endswith("_sum")]
    assert not ours, "all were compared"


async def test_metrics_are_exported_at_their_interval(
    tmp_path: Path, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    with collector() as received:
        async with exporting(tmp_path, server, received.url) as it, it.connect() as agent:
            await agent.ask(call())

            def counted(seen: Collector) -> bool:
                return "openmcp_requests" in seen.metrics and seen.metrics["openmcp_otlp_exported"].value(
                    signal="metrics"
                )

            assert await asyncio.to_thread(received.wait_for, counted), "more than one export"


# Logs


async def test_the_log_of_the_process_is_exported_with_its_fields(
    tmp_path: Path, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=p,service.name=bot-sidecar")
    logger = logging.getLogger("openmcp.test")
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    logger.setLevel(logging.INFO)
    with collector() as received:
        async with exporting(tmp_path, server, received.url):
            logger.warning("a %s", "line", extra={"number": 7, "odd": "\ud800", "flag": True})
            try:
                raise KeyError("x")
            except KeyError:
                logger.exception("it broke")
            logging.getLogger("grpc.thing").error("not this")
        logs = [line for line in received.logs if line[0] != "openmcp.app"]
        resource = received.resources[0]
    broken = logs.pop()
    assert logs == [("openmcp.test", "WARNING", "a line", {"number": 7, "odd": "?", "flag": True})]
    assert broken[:3] == ("openmcp.test", "ERROR", "it broke")
    assert broken[3].pop("exception.stacktrace").endswith("KeyError: 'x'")
    assert broken[3] == {"exception.type": "KeyError", "exception.message": "'x'"}
    version = resource.pop("service.version")
    assert version
    assert resource.pop("service.instance.id")
    assert resource == {"service.name": "bot-sidecar", "k8s.pod.name": "p"}
