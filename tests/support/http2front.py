"""What lets a client of HTTP/1.1 come by HTTP/2: a proxy before the sidecar, of httpx and aiohttp alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from aiohttp import web

_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"))


async def _served(request: web.Request, target: str) -> web.StreamResponse:
    # A connection for each request: where streams of one wait for each other's answers, this client is slow.
    async with httpx2.AsyncClient(http1=False, http2=True, timeout=None) as client:
        return await _passed_on(request, client, target)


async def _passed_on(request: web.Request, client: httpx2.AsyncClient, target: str) -> web.StreamResponse:
    fields = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
    asked = client.build_request(
        request.method, target + request.path_qs, headers=fields, content=await request.read() or None
    )
    answer = await client.send(asked, stream=True)
    try:
        assert answer.http_version == "HTTP/2"
        response = web.StreamResponse(status=answer.status_code)
        for name, value in answer.headers.multi_items():
            if name not in _HOP:
                response.headers.add(name, value)
        if "content-length" in answer.headers:
            response.content_length = int(answer.headers["content-length"])
        await response.prepare(request)
        async for piece in answer.aiter_raw():
            await response.write(piece)
        await response.write_eof()
        return response
    finally:
        await answer.aclose()


async def _serve(target: str, port: int, ready: threading.Event, stop: asyncio.Event) -> None:
    app = web.Application(handler_args={"handler_cancellation": True})  # a client that goes away resets its stream
    app.router.add_route("*", "/{path:.*}", lambda request: _served(request, target))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    ready.set()
    await stop.wait()
    await runner.cleanup()


@contextmanager
def http2_front(target: str, port: int) -> Iterator[str]:
    """Listen on this port for HTTP/1.1 and pass all on to `target` by HTTP/2; yields our URL. In a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(target, port, ready, stop)))
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
