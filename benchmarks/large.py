"""Results of 10 MiB: an MCP server that gives them, and an agent that asks for them at a steady pace.

    python -m benchmarks.large serve              prints "ready PORT"; the tools `text`, `rows` and `list`, as JSON, or
                                                  with the argument `stream` as an event
    python -m benchmarks.large read PORT TOOL SECONDS PAUSE [stream]
                                                  prints how many results came whole, and their seconds in the median

Both step back (nice) for the generator whose latencies are measured on the same CPU.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time

from benchmarks.wire import MODERN, PATH

SIZE = 10 << 20
TOOLS = ("text", "rows")


def results() -> dict[str, bytes]:
    """A result of each tool, a response to the request with id 1: one long text, and many small objects."""
    sentence = "Springfield: 21 degrees, light wind from the west, no rain expected.\n"
    row = {"city": "Springfield", "degrees": 21, "wind": "west", "rain": False}
    made = {
        "text": {"content": [{"type": "text", "text": sentence * (SIZE // (len(sentence) + 1))}]},
        "rows": {"content": [], "structuredContent": {"rows": [{"id": n, **row} for n in range(SIZE // 80)]}},
    }
    return {tool: _json({"jsonrpc": "2.0", "id": 1, "result": {**result, **_END}}) for tool, result in made.items()}


_END = {"isError": False, "resultType": "complete"}


async def serve() -> None:
    """Answers until it is ended."""
    os.nice(15)
    prepared = {}
    for tool, body in results().items():
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        prepared[tool, False] = head + body
        event = b"event: message\ndata: %b\n\n" % body
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        prepared[tool, True] = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or b"0"))
                if not body:  # a health check
                    writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
                    continue
                params = json.loads(body)["params"]
                answer = memoryview(prepared[params["name"], bool(params["arguments"].get("stream"))])
                for start in range(0, len(answer), 65536):
                    writer.write(answer[start : start + 65536])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def read(port: int, tool: str, seconds: float, pause: float, *, stream: bool) -> None:
    """Asks again and again; ends with an error at a result that is not whole."""
    os.nice(15)
    body = len(results()[tool])
    request = _request(tool, port, stream=stream)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        got = await (_chunks(reader) if b"chunked" in head.lower() else _body(reader, head))
        if not body <= got < body + 4096 or b" 200 " not in head[:20]:
            raise SystemExit(f"{got} bytes instead of {body}: {head!r}")
        took.append(time.monotonic() - begun)
        await asyncio.sleep(pause)
    writer.close()
    print(json.dumps({"results": len(took), "seconds": statistics.median(took)}))


def _request(tool: str, port: int, *, stream: bool) -> bytes:
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": tool, "arguments": {"stream": stream}, "_meta": meta}
    body = _json({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    lines = [f"POST {LARGE_PATH} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += ["Accept: application/json, text/event-stream", f"MCP-Protocol-Version: {MODERN}"]
    lines += ["Mcp-Method: tools/call", f"Mcp-Name: {tool}", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


LARGE_PATH = PATH + "-large"


async def _body(reader: asyncio.StreamReader, head: bytes) -> int:
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await _skip(reader, length)


async def _chunks(reader: asyncio.StreamReader) -> int:
    total = 0
    while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
        total += await _skip(reader, size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return total


async def _skip(reader: asyncio.StreamReader, size: int) -> int:
    left = size
    while left:
        data = await reader.read(min(left, 1 << 18))
        if not data:
            raise SystemExit("the answer was cut")
        left -= len(data)
    return size


def _json(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def main() -> None:
    """See above."""
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        port, tool, seconds, pause = sys.argv[2:6]
        asyncio.run(read(int(port), tool, float(seconds), float(pause), stream="stream" in sys.argv[6:]))


if __name__ == "__main__":
    main()
