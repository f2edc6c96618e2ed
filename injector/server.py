"""The listeners: `POST /mutate` over TLS for API servers; `/healthz`, `/readyz` and `/metrics` for those who operate
this. The door to aiohttp."""

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import msgspec
from aiohttp import web

from openmcp.config.model import Address
from openmcp.injector.metrics import Metrics
from openmcp.injector.records import CannotRecord, Records
from openmcp.injector.review import Admission, NotAReview
from openmcp.injector.settings import Settings

PATH: Final = "/mutate"
BODY: Final = 4 * 1024 * 1024
"""Bytes of a review. An API server takes requests of 3 MiB at most."""
SMALL: Final = 64 * 1024
"""Bytes of a review that is read without waiting for others: as much is held of every request in any case."""
AT_ONCE: Final = 16
"""Larger reviews that are read at the same time: with `BODY`, what strangers can make us hold."""
_BODY_PATIENCE: Final = 4.0
"""Seconds for a request to arrive whole: an API server gives up after five."""
KEPT: Final = 120.0
"""Seconds that a connection may be idle. API servers end theirs after 90: a request never meets a closing one."""
SWEEP: Final = 5.0
_FIRST: Final = 10.0
"""Seconds until the first request of a connection has begun."""
CONNECTIONS: Final = 128
"""At once: with TLS and 64 KiB of a body, one takes half a MiB. Beyond it the address that has most makes room."""
_PATIENCE: Final = 5.0
"""Seconds that requests under way have at the end."""
_EXPOSITION: Final = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
_log = logging.getLogger("openmcp.injector")

Judge = Callable[[bytes, Settings], Admission]


class Webhook:
    """Answers reviews by `judge`, recording each one before. After `drain` every answer ends its connection, so that
    API servers turn to another replica."""

    def __init__(self, settings: Settings, judge: Judge, records: Records, metrics: Metrics) -> None:
        self._settings = settings
        self._judge = judge
        self._records = records
        self._metrics = metrics
        self._listener = _Listener([web.post(PATH, self._answer)], BODY)
        self._draining = False
        self._reading = asyncio.Semaphore(AT_ONCE)

    async def start(self, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """Listen; the address. Raises `OSError`."""
        return await self._listener.start(self._settings.listen, tls)

    def drain(self) -> None:
        """See the class."""
        self._draining = True

    async def stop(self) -> None:
        """Take no more connections; what is under way is answered."""
        await self._listener.stop()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        try:
            body = await self._body(request)
            began = time.perf_counter()
            admission = self._judge(body, self._settings)
            await self._records.write(admission, time.perf_counter() - began)
        except (NotAReview, TimeoutError) as error:
            response = web.Response(status=400, text=f"{error or 'the request did not arrive whole'}\n")
            result = "error"
        except CannotRecord as error:
            _log.error("an admission is refused, as it cannot be recorded: %s", error)
            response, result = web.Response(status=500, text="the admission cannot be recorded\n"), "error"
        except web.HTTPException:  # too large
            self._metrics.admission("error", time.perf_counter() - began)
            raise
        except Exception:  # a fault of ours refuses the pod, by failurePolicy: Fail
            _log.exception("a pod could not be judged")
            response, result = web.Response(status=500, text="a fault of the injector: its log says more\n"), "error"
        else:
            response = web.Response(body=admission.answer(), content_type="application/json")
            result = admission.outcome
        self._metrics.admission(result, time.perf_counter() - began)
        if self._draining:
            response.force_close()
        return response

    async def _body(self, request: web.Request) -> bytes:
        """A review of a pod is mostly small, and then waits for no stranger who sends slowly. Raises `TimeoutError`,
        and `NotAReview` where nobody is there any more."""
        small = request.content_length is not None and request.content_length <= SMALL
        async with asyncio.timeout(_BODY_PATIENCE), nullcontext() if small else self._reading:
            try:
                return await request.read()
            except (ConnectionError, RuntimeError):  # the latter where it was gone before we began
                raise NotAReview("whoever asked has gone") from None


class Operations:
    """Answers operators and probes. `faults` says why this replica should get no requests: nothing, if it should."""

    def __init__(self, faults: Callable[[], list[str]], detail: Callable[[], dict[str, Any]], metrics: Metrics) -> None:
        self._faults = faults
        self._detail = detail
        self._metrics = metrics
        routes = [
            web.get("/healthz", self._alive),
            web.get("/readyz", self._ready),
            web.get("/metrics", self._numbers),
        ]
        self._listener = _Listener(routes, 1024)

    async def start(self, address: Address) -> tuple[str, int]:
        """Listen; the address. Raises `OSError`."""
        return await self._listener.start(address, None)

    async def stop(self) -> None:
        """Close it."""
        await self._listener.stop()

    async def _alive(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        faults = self._faults()
        body = msgspec.json.encode({"ready": not faults, "faults": faults} | self._detail())
        text = msgspec.json.format(body, indent=2) + b"\n"
        return web.Response(status=503 if faults else 200, body=text, content_type="application/json")

    async def _numbers(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.exposition(), headers=_EXPOSITION)


class _Listener:
    """One listener of aiohttp, with the limits in time and number that it lacks."""

    def __init__(self, routes: list[web.RouteDef], body: int) -> None:
        app = web.Application(middlewares=[self._watched], client_max_size=body)
        app.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE, keepalive_timeout=KEPT)
        self._since: dict[Any, float] = {}
        self._busy: set[Any] = set()
        self._cut: set[Any] = set()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, address: Address, tls: ssl.SSLContext | None) -> tuple[str, int]:
        await self._runner.setup()
        assert self._runner.server is not None
        joined = self._runner.server.connection_made

        def join(connection: Any, transport: Any) -> None:
            joined(connection, transport)
            self._make_room(connection)

        self._runner.server.connection_made = join  # type: ignore[assignment, method-assign]  # aiohttp has no limit
        try:
            await web.TCPSite(self._runner, address.host, address.port, ssl_context=tls, backlog=1024).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._sweeping = asyncio.ensure_future(self._sweep())
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._runner.cleanup()

    @web.middleware
    async def _watched(self, request: web.Request, handler: Any) -> web.StreamResponse:
        with self._at_work(request.protocol):
            response: web.StreamResponse = await handler(request)
            return response

    @contextmanager
    def _at_work(self, connection: Any) -> Iterator[None]:
        self._busy.add(connection)
        try:
            yield
        finally:
            self._busy.discard(connection)
            self._since[connection] = time.monotonic() + KEPT

    def _make_room(self, newest: Any) -> None:
        """Cut connections of the address that has most of them, those first on which nothing is asked: API servers have
        few, and who opens many shuts none of them out."""
        assert self._runner.server is not None
        there = [one for one in self._runner.server.connections if one not in self._cut]
        if len(there) <= CONNECTIONS:
            return
        addresses = {one: _address(one) for one in there if one is not newest}
        most = Counter(addresses.values()).most_common(1)[0][0]
        theirs = sorted((one for one, address in addresses.items() if address == most), key=self._busy.__contains__)
        self._end(theirs[: len(there) - CONNECTIONS])

    def _end(self, connections: Iterable[Any]) -> None:
        for one in connections:
            self._cut.add(one)
            if one.transport is not None:
                one.transport.abort()  # TLS would wait for the other side's goodbye
            one.force_close()

    async def _sweep(self) -> None:
        """Close connections that send no request, or the next one too slowly."""
        server = self._runner.server
        while server is not None:
            await asyncio.sleep(SWEEP)
            now, there = time.monotonic(), server.connections
            self._since = {one: self._since.get(one, now + _FIRST) for one in there}
            self._cut &= self._since.keys()
            self._end([one for one, until in self._since.items() if until < now and one not in self._busy])


def _address(connection: Any) -> str:
    peer = None if connection.transport is None else connection.transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
