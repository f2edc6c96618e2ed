"""A recorded flow is told again as agents and servers have seen it: 200 messages, two agents, two sessions, streams."""

import asyncio
import json
import subprocess
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import call, configuration, gate, message
from tests.support.hostile import Reply, Request, hostile, initialized, tool
from tests.support.process import OPENMCP
from tests.support.raw import Connection
from tests.telemetry.recording import keys

Json = dict[str, Any]
VERSION = "2025-11-25"
ROUNDS = 8
RULES = {
    "name": "mail",
    "servers": ["*"],
    "responses": [{"name": "addresses", "detect": ["email"], "action": "redact"}],
}


class Server:
    """An MCP server with sessions, streams and questions. It keeps what it got and said, by session, in order."""

    def __init__(self) -> None:
        self.log: dict[str, list[Json]] = defaultdict(list)
        self.streams: dict[str, Reply] = {}
        self.opened: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.answered: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __call__(self, request: Request, reply: Reply) -> None:
        session = request.header("mcp-session-id") or ""
        if request.method == "DELETE":
            await reply.respond(status=200)
        elif request.method == "GET":
            await reply.stream()
            self.streams[session] = reply
            self.opened[session].set()
            await reply.left()
        elif request.json.get("method") == "initialize":
            name = request.json["params"]["clientInfo"]["name"]
            self.log[name].append(request.json)
            await self.answer(name, request, reply, initialized(request), mcp_session_id=name)
        else:
            self.log[session].append(request.json)
            await self.handle(session, request, reply)

    async def handle(self, session: str, request: Request, reply: Reply) -> None:
        asked = request.json
        if "method" not in asked:
            await reply.accepted()
            self.answered[session].set()
        elif "id" not in asked:
            await reply.accepted()
        elif asked["method"] == "tools/list":
            await self.answer(session, request, reply, {"tools": [tool("allowed"), tool("forbidden")]})
        elif asked["params"]["name"] == "allowed_stream":
            await self.long(session, request, reply)
        else:
            said = {"content": [{"type": "text", "text": f"done {asked['params']['arguments']}"}]}
            await self.answer(session, request, reply, said)

    async def long(self, session: str, request: Request, reply: Reply) -> None:
        """Progress, a question whose answer is awaited, and the result."""
        await reply.stream()
        token = request.json["params"]["_meta"]["progressToken"]
        for step in (1, 2):
            await self.event(
                session, reply, message("notifications/progress", None, progressToken=token, progress=step)
            )
        self.answered[session].clear()
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        question = message("elicitation/create", f"q-{token}", message="Who?", requestedSchema=schema)
        await self.event(session, reply, question)
        await self.answered[session].wait()
        result = {"content": [{"type": "text", "text": "naïve ✓ \u202e\x1b[31m"}], "structuredContent": {"n": 2**70}}
        await self.event(session, reply, {"jsonrpc": "2.0", "id": request.json["id"], "result": result})
        await reply.end()

    async def answer(self, session: str, request: Request, reply: Reply, result: Json, **headers: str) -> None:
        self.log[session].append({"jsonrpc": "2.0", "id": request.json["id"], "result": result})
        await reply.result(result, **headers)

    async def event(self, session: str, reply: Reply, said: Json) -> None:
        self.log[session].append(said)
        await reply.event(said)


class Agent:
    """A client that keeps what it sent and got, in order. The server's questions have the server's ids there."""

    def __init__(self, name: str, connection: Connection, second: Connection, stream: Connection) -> None:
        self.name, self.session = name, ""
        self.log: list[tuple[str, Json]] = []
        self._connection, self._second, self._stream = connection, second, stream

    async def send(self, said: Json) -> Any:
        self.log.append(("agent", said))
        answer = await self._connection.ask(said)
        if answer.body:
            self.log.append(("server", answer.json))
        return answer

    async def begin(self) -> None:
        info = {"name": self.name, "version": "1"}
        asked = message("initialize", 0, protocolVersion=VERSION, capabilities={"elicitation": {}}, clientInfo=info)
        self.session = (await self.send(asked)).header("mcp-session-id")
        for connection in (self._connection, self._second, self._stream):
            connection.headers |= {"mcp-session-id": self.session, "mcp-protocol-version": VERSION}
        await self.send(message("notifications/initialized", None))
        await self._stream.send(self._stream.request(method="GET", accept="text/event-stream"))
        assert (await self._stream.answer_head())[0] == 200

    async def hear(self) -> None:
        self.log.append(("server", await self._stream.event()))

    async def long(self, identifier: int) -> None:
        said = call("allowed_stream", identifier, n=identifier)
        said["params"]["_meta"] = {"progressToken": identifier}
        self.log.append(("agent", said))
        await self._connection.send(self._connection.request(said))
        assert (await self._connection.answer_head())[0] == 200
        async for heard in self._connection.events():
            if heard.get("method") != "elicitation/create":
                self.log.append(("server", heard))
                continue
            ours = {"jsonrpc": "2.0", "result": {"action": "accept", "content": {"name": self.name}}}
            known = f"q-{identifier}"
            self.log += [("server", heard | {"id": known}), ("agent", ours | {"id": known})]
            assert (await self._second.ask(ours | {"id": heard["id"]})).status == 202

    async def end(self) -> None:
        assert (await self._connection.ask(method="DELETE")).status == 200


async def conversation(agent: Agent, server: Server) -> None:
    await agent.begin()
    await server.opened[agent.name].wait()
    await agent.send(message("tools/list", "list"))
    for turn in range(ROUNDS):
        await agent.send(
            call("allowed", f"a{turn}", text=f"{agent.name} {turn}", nested={"list": [1, 2.5, None, True]})
        )
        await agent.send(call("forbidden", 1000 + turn))
        await agent.send(call("allowed", 2000 + turn, n=2**70 + turn))
        await agent.long(3000 + turn)
        told = message("notifications/message", None, level="info", data={"turn": turn})
        await server.event(agent.name, server.streams[agent.name], told)
        await agent.hear()
    await agent.end()


def plain(said: Json) -> Json:
    """A message as it is compared: params that are empty say what absent ones say."""
    return {key: value for key, value in said.items() if key != "params" or value}


def openmcp(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run([OPENMCP, *map(str, arguments)], capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def replayed(path: Path, *options: str) -> list[Json]:
    code, said, wrong = openmcp("replay", "--audit", path, "--json", *options)
    assert (code, wrong) == (0, "")
    return [json.loads(line) for line in said.splitlines()]


def settings(folder: Path, url: str) -> Json:
    (folder / "audit.pem").write_bytes(keys()[0])
    (folder / "public.pem").write_bytes(keys()[1])
    record = {
        "output": {"file": str(folder / "audit.jsonl")},
        "payloads": "redacted",
        "signingKey": {"file": str(folder / "audit.pem")},
    }
    whole = configuration(url)
    return whole | {"telemetry": {"audit": record}, "policies": [*whole["policies"], RULES]}


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Agent], Server]:
    """The folder of a record, and what both sides have seen."""
    folder = tmp_path_factory.mktemp("flow")
    server = Server()

    async def run() -> dict[str, Agent]:
        async with (
            hostile(server) as upstream,
            gate(folder, settings(folder, upstream.url)) as it,
            AsyncExitStack() as stack,
        ):
            agents = {
                name: Agent(name, *[await stack.enter_async_context(it.connect(name)) for _ in range(3)])
                for name in ("alice", "bob")
            }
            async with asyncio.timeout(60):
                await asyncio.gather(*(conversation(agent, server) for agent in agents.values()))
            return agents

    return folder, asyncio.run(run()), server


def messages(entries: list[Json]) -> list[tuple[str, Json]]:
    return [(entry["from"], entry["message"]) for entry in entries if "message" in entry]


def test_each_agent_is_told_what_it_saw(flow: tuple[Path, dict[str, Agent], Server]) -> None:
    folder, agents, _ = flow
    everything = replayed(folder / "audit.jsonl")
    assert len(messages(everything)) >= 200
    assert [entry["time"] for entry in everything] == sorted(entry["time"] for entry in everything)
    count = 0
    for name, agent in agents.items():
        seen = [(sender, plain(said)) for sender, said in agent.log]
        assert messages(replayed(folder / "audit.jsonl", "--agent", f"key:{name}")) == seen
        assert messages(replayed(folder / "audit.jsonl", "--session", agent.session)) == seen
        assert messages([one for one in everything if one["agent"] == f"key:{name}"]) == seen
        count += len(seen)
    assert len(messages(everything)) == count
    turns = [entry["agent"] for entry in everything]
    assert sum(one != two for one, two in zip(turns, turns[1:], strict=False)) > 20, "the agents were interleaved"


def test_the_server_is_told_what_it_saw(flow: tuple[Path, dict[str, Agent], Server]) -> None:
    """It never got what was denied, and its list had an entry more."""
    folder, agents, server = flow
    for name in agents:
        entries = replayed(folder / "audit.jsonl", "--agent", f"key:{name}")
        denied = {entry["call"] for entry in entries if entry.get("decision") == "deny"}
        assert len(denied) == ROUNDS
        passed = [entry for entry in entries if entry["call"] not in denied and entry.get("method") != "tools/list"]
        seen = [plain(said) for said in server.log[name] if said.get("id") != "list"]
        assert [said for _, said in messages(passed)] == seen


def test_the_record_of_the_flow_is_whole(flow: tuple[Path, dict[str, Agent], Server]) -> None:
    folder, _, _ = flow
    code, said, wrong = openmcp("audit", "verify", folder / "audit.jsonl", "--key", folder / "public.pem")
    assert (code, wrong) == (0, "")
    assert "checkpoints are signed by the key given" in said


def test_the_timeline_for_people(flow: tuple[Path, dict[str, Agent], Server]) -> None:
    folder, agents, _ = flow
    code, said, wrong = openmcp("replay", "--audit", folder / "audit.jsonl", "--session", agents["bob"].session)
    assert (code, wrong) == (0, "")
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "\\x1b[31m" in said.replace("\\u001b", "\\x1b")
    shown = [line[17:] for line in said.splitlines()]
    session = shown[3][:6]
    begin = shown.index(f"{session}  key:bob → server  tools/call allowed_stream #3000  allow (test/tools)")
    told = [line for line in shown[begin : begin + 14] if line.startswith(session)]
    assert [line.removeprefix(f"{session}  ").rpartition("  ok ")[0] or line[8:] for line in told] == [
        "key:bob → server  tools/call allowed_stream #3000  allow (test/tools)",
        "key:bob ← server      notifications/progress",
        "key:bob ← server      notifications/progress",
        "key:bob ← server      elicitation/create #q-3000",
        "key:bob → server  answer to the server's #q-3000  allow (test/prompts)",
        "key:bob ← server  accepted",
        "key:bob ← server      answer to tools/call allowed_stream #3000  ok",
        "key:bob ← server  stream-end tools/call allowed_stream #3000",
    ]
    assert "key:alice" not in said


def test_other_policies_decide_otherwise(flow: tuple[Path, dict[str, Agent], Server], tmp_path: Path) -> None:
    folder, _, _ = flow
    record = folder / "audit.jsonl"
    same = folder / "gateway.yaml"
    code, said, wrong = openmcp("replay", "--audit", record, "--decide", same)
    assert (code, said) == (0, "")
    assert "the same, 0 different, 0 cannot be told" in wrong
    other = json.loads(same.read_text())
    condition = {"path": "$.n", "op": "exists"}
    other["policies"][0]["requests"].append(
        {"name": "no-n", "tools": ["allowed"], "when": [condition], "action": "deny"}
    )
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(other))
    code, said, wrong = openmcp("replay", "--audit", record, "--decide", file, "--json", "--agent", "key:bob")
    told = [json.loads(line) for line in said.splitlines()]
    assert code == 1
    assert f"{ROUNDS} different, 0 cannot be told" in wrong
    assert [one["id"] for one in told] == [2000 + turn for turn in range(ROUNDS)]
    assert {json.dumps([one["was"], one["now"]]) for one in told} == {
        json.dumps(
            [
                {"decision": "allow", "policy": "test", "rule": "tools", "reason": ""},
                {"decision": "deny", "policy": "test", "rule": "no-n", "reason": "denied by policy test"},
            ]
        )
    }
    code, said, wrong = openmcp("replay", "--audit", record, "--decide", file, "--agent", "key:bob")
    assert "was allow (test/tools), now deny (test/no-n): denied by policy test" in said
