"""The composition root: builds everything from a configuration, owns start, reload and stop."""

import asyncio
import functools
import logging
import os
import random
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from openmcp.config.model import Configuration
from openmcp.config.secrets import SecretError, read_key
from openmcp.sidecar import build
from openmcp.sidecar.admin import Admin, Readiness
from openmcp.sidecar.build import changes, telemetry
from openmcp.sidecar.build.limits import report_endpoints
from openmcp.sidecar.net import health
from openmcp.sidecar.net.listener import MOST_KEPT, Listener
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.sweep import Sweeper
from openmcp.sidecar.pipeline import Pipeline
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.sealing import KEY_BYTES, Sealer
from openmcp.sidecar.stages import admit
from openmcp.sidecar.stages.guarded import Guarded
from openmcp.sidecar.stages.pins import Pins
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.requests import Requests
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.sessions import Sessions
from openmcp.sidecar.stages.snapshot import Snapshot
from openmcp.sidecar.stages.tasks import Tasks
from openmcp.sidecar.stages.tokens import Tokens
from openmcp.sidecar.telemetry.metrics import Metrics, Scrape
from openmcp.sidecar.types import JsonObject
from openmcp.sidecar.version import VERSION
from openmcp.sidecar.worker.process import Worker

if TYPE_CHECKING:
    from openmcp.sidecar.stages.approvals import Approvals
    from openmcp.sidecar.stages.payloads import Payloads

DRAIN: Final = 20.0
"""Seconds for calls under way to finish after SIGTERM; Kubernetes allows 30 in all by default."""
UNSERVED: Final = 2.0
"""Seconds for the end of a record when the start fails; another process may have the file."""
OPERATORS: Final = 256
"""Connections of operators and probes: in Kubernetes whoever reaches a pod may make some, and each takes memory."""
MIN_BODY: Final = 64 * 1024
"""Body limit of paths that no server has: their requests are read only to be refused."""
_log = logging.getLogger("openmcp.app")


@runtime_checkable
class Origin(Protocol):
    """Where a configuration is come by from that is not a file (`config.kubernetes.source`)."""

    def age(self) -> float:
        """Seconds since it was last heard of."""

    def objects(self) -> Iterable[tuple[str, str, int]]:
        """Kinds and states of objects, and how many there are."""

    def watch_errors(self) -> Iterable[tuple[str, str, int]]:
        """Kinds and reasons of failures, and how many there were."""

    def report(self) -> JsonObject:
        """Its state for `/readyz`."""


class App:
    """One running sidecar. `start` binds, `reload` swaps the configuration, `stop` drains."""

    def __init__(self, configuration: Configuration, closed: str = "", origin: Origin | None = None) -> None:
        """`closed` says why nothing may pass yet; `origin` is asked how the configuration is come by, where that is not
        a file. Raises `build.BuildError` or `SecretError` where the configuration cannot be used. Needs a running loop.
        """
        self.mcp_address = ("", 0)
        self.admin_address = ("", 0)
        self.metrics = Metrics(VERSION)
        self._watchers: dict[Upstream, asyncio.Task[None]] = {}
        self._retired: set[Upstream] = set()
        self._origin = origin
        self._loaded_at = time.time()
        self._last_error, self._draining, self._digested = "", False, (configuration, changes.digest(configuration))
        settings = configuration.telemetry.audit
        self.audit, payloads = telemetry.record(settings, functools.partial(_log_audit, settings.file or "stdout"))
        try:
            self._compose(configuration, closed, payloads)
        except BaseException:
            self.audit.close(UNSERVED)  # what never served has an end in the record nevertheless
            raise

    def _compose(self, configuration: Configuration, closed: str, payloads: "Payloads | None") -> None:
        self._exporter = telemetry.exporter(configuration.telemetry.otlp, VERSION, self.metrics)
        self._recorder = Recorder(self.audit, self.metrics, self._exporter, payloads)
        self._sealer = Sealer(_session_key(configuration))
        self._sessions = Sessions(self._sealer, configuration.sessions.lifetime)
        self._builder = build.Builder(self.metrics, self._recorder.approval)
        self._builder.approving.recording = lambda: self.audit.accepting
        self._identities = self._builder.identities
        snapshot = self._builder.snapshot(configuration, {}, closed)
        self._tls = self._identities.listening(configuration.listen.tls)
        tokens, tasks = Tokens(self._sealer), Tasks()
        self._pins = Pins(self._recorder.tool_changed)
        self._worker = Worker()
        results = Results(tokens, tasks, self._pins, worker=self._worker)
        self._approvals = Guarded(self._recorder, lambda: self._guarding(tokens, results))
        self._pipeline = Pipeline(
            snapshot,
            self._sessions,
            Requests(tokens, tasks, held=self._approvals.owns),
            results,
            self._approvals,
            functools.partial(random.Random(os.urandom(16)).getrandbits, 64),  # noqa: S311  # ids, not secrets
        )
        self._sweeper = Sweeper()
        self._listener = Listener(self._pipeline, self._body_limit, self._recorder.unreadable, self._sweeper)
        admin = Admin(self._readiness, self.metrics.exposition)
        self._admin = Listener(admin, lambda path: 0, lambda status: None, self._sweeper, http2=False)
        self._admin.most_connections = OPERATORS
        self.metrics.on_scrape(self._scrape)

    def _guarding(self, tokens: Tokens, results: Results) -> "Approvals":
        from openmcp.sidecar.stages.approvals import Approvals  # here: see `Guarded`

        approvals = Approvals(tokens, results, self._recorder, self._builder.approving.desk)
        approvals.snapshot = lambda: self.snapshot
        approvals.trusted = self._pipeline.relays.trusted
        approvals.tasks.handle = self._pipeline
        return approvals

    def _follow_approvals(self, configuration: Configuration) -> None:
        if self._builder.approving.desk.service is not None:
            self._approvals.load()
        self._builder.approving.follow(configuration)

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force, compiled."""
        return self._pipeline.snapshot

    async def start(self) -> None:
        """Bind both listeners, that for agents first, and serve. Raises OSError where an address cannot be had."""
        configuration = self.snapshot.configuration
        listen = configuration.listen
        self._listener.most_kept = _most_kept(configuration)
        self.mcp_address = await self._listener.start(listen.mcp.host, listen.mcp.port, self._tls)
        self.admin_address = await self._admin.start(listen.admin.host, listen.admin.port)
        self._sweeper.add(self._worker.sweep)
        self._sweeper.add(self._pipeline.relays.sweep)
        self._sweeper.add(self._pipeline.older.sweep)
        self._sweeper.add(self._approvals.sweep)
        self._sweeper.add(self._builder.limiting.sweep)
        self._sweeper.start()
        if self._exporter is not None:
            self._exporter.start()
        self._identities.start(self.snapshot.configuration, self._review_peers)
        self._builder.callers.follow(self.snapshot.configuration.identity)
        self._follow_approvals(self.snapshot.configuration)
        self._builder.limiting.follow(self.snapshot.routes.values())
        await self._builder.approving.open(self.snapshot.configuration)
        for upstream in build.upstreams(self.snapshot).values():
            self._watch(upstream)

    @property
    def description(self) -> str:
        """What this sidecar is, in one line for the log."""
        methods = [entry.__struct_config__.tag for entry in self.snapshot.configuration.identity.agents]
        return f"{self._identities.describe()}; callers are identified by: {', '.join(map(str, methods)) or 'nothing'}"

    def reload(self, configuration: Configuration, closed: str = "", policies: PolicySet | None = None) -> None:
        """Swap to another configuration; what is under way ends under its own. Where it is `closed`, which says why,
        nothing more begins. `policies` are its own, compiled, for thousands of them take a while. Raises
        `build.BuildError` or `SecretError`, and then nothing has changed."""
        before = self.snapshot
        known = build.upstreams(before)
        key = _session_key(configuration) if configuration.sessions.key is not None else None
        after = self._builder.snapshot(configuration, known, closed, policies)
        renewed = self._identities.renew_listening(configuration.listen.tls)
        if key is not None:
            self._sealer.rekey(key)
            self._sessions.forget()
        self._identities.start(configuration, self._review_peers)
        self._builder.callers.follow(configuration.identity)
        self._follow_approvals(configuration)
        self._builder.limiting.follow(after.routes.values())
        self._pipeline.snapshot = after
        if renewed:
            self._review_peers()
        self._sessions.lifetime = configuration.sessions.lifetime
        self._listener.most_kept = _most_kept(configuration)
        self._swap_upstreams(set(known.values()), set(build.upstreams(after).values()))
        self._loaded_at, self._last_error = time.time(), ""
        changes.warn_of_restart(before.configuration, configuration)
        reopened = before.closed != closed
        self._review_streams(after, changed=reopened or configuration.policies != before.configuration.policies)

    def refused_reload(self, error: str) -> None:
        """A new configuration was not taken: the last good one stays, and everybody can see that."""
        self._last_error = error
        self._recorder.reload("error", error)
        _log.error("the new configuration is refused, the last good one stays:\n%s", error)

    def taken_reload(self) -> None:
        """A new configuration is in force."""
        if self.snapshot.closed:
            self._recorder.reload("closed", self.snapshot.closed)
            _log.error("everything is denied: %s", self.snapshot.closed)
            return
        self._recorder.reload("ok", self._digest())
        _log.info("the configuration was reloaded: %s", changes.summary(self.snapshot.configuration))

    async def stop(self, patience: float = DRAIN) -> None:
        """Drain: calls under way finish within `patience` seconds, streams are ended, then everything is closed.

        A second call does nothing."""
        if self._draining:
            return
        self._draining = self._pipeline.relays.draining = True
        self._approvals.release()
        await self._listener.drain(patience, self._end_streams)
        for watcher in self._watchers.values():
            watcher.cancel()
        for upstream in (*build.upstreams(self.snapshot).values(), *self._retired):
            upstream.close()
        for upstream in (*build.upstreams(self.snapshot).values(), *self._retired):
            await upstream.closed()
        await self._approvals.close(patience)
        await self._builder.approving.stop()
        await self._builder.limiting.close()
        await self._admin.drain(0.2, lambda: None)
        self._builder.callers.close()
        await self._identities.stop()
        self._sweeper.stop()
        await self._worker.close()
        if not await asyncio.to_thread(self.audit.close, 5.0):
            _log.error("the end of the record could not be written")
        else:
            _log.info("the record ends with seq %d, chain %s", self.audit.head.seq, self.audit.head.value.hex())
        if self._exporter is not None:
            await self._exporter.stop()

    def _end_streams(self) -> None:
        for relay in tuple(self._pipeline.relays.open):
            if relay.idle:
                relay.stop()

    def _body_limit(self, path: str) -> int:
        route = self._pipeline.snapshot.routes.get(path) or self._pipeline.older.route(path)
        return route.server.limits.request_bytes if route is not None else MIN_BODY

    def _review_streams(self, after: Snapshot, *, changed: bool) -> None:
        """Streams that do not end by themselves go on under the new configuration, where their agent may have them;
        and where policies have `changed`, it hears that its lists may have."""
        for relay in tuple(self._pipeline.relays.open):
            if not relay.idle:
                continue
            if not admit.remains(after, relay.flow):
                relay.stop()
                continue
            relay.flow.snapshot = after
            if changed:
                relay.announce_lists()

    def _review_peers(self) -> None:
        """Whom we trust, or who we are, has changed: connections that were made otherwise are given up."""
        self._listener.review(self._identities.still_trusted)
        self._pipeline.relays.review(self._identities.still_trusted)
        for upstream in (*build.upstreams(self.snapshot).values(), *self._retired):
            upstream.review()

    def _swap_upstreams(self, before: set[Upstream], after: set[Upstream]) -> None:
        for upstream in before - after:
            upstream.retire()
            self._watchers.pop(upstream).cancel()
        for upstream in after - before:
            self._watch(upstream)
        # What is under way there keeps its time limits: such a server is swept until nothing is.
        retired = self._retired | (before - after)
        self._retired = {upstream for upstream in retired if upstream.in_use}
        for upstream in retired - self._retired:
            self._sweeper.remove(upstream.sweep)

    def _watch(self, upstream: Upstream) -> None:
        self._sweeper.add(upstream.sweep)
        self._watchers[upstream] = asyncio.get_running_loop().create_task(health.watch(upstream))

    def _readiness(self) -> Readiness:
        serving = self._listener.accepting and not self._draining
        ready = serving and self.audit.accepting and self._identities.ready and not self.snapshot.closed
        detail: JsonObject = {
            "identity": self._identities.report(),
            "issuers": self._builder.callers.report(),
            "draining": self._draining,
            "approvals": self._approvals.report() | {"channels": dict(self._builder.approving.channels())},
            "record": "ok" if self.audit.accepting else "cannot be written",
            "configuration": {
                "digest": self._digest(),
                "loaded": int(self._loaded_at),
                "refused": self._last_error or None,
                "closed": self.snapshot.closed or None,
                "source": self._origin.report() if self._origin is not None else {"type": "file"},
            },
            "servers": {
                route.server.name: {
                    "path": route.server.path,
                    "endpoints": [
                        {
                            "url": endpoint.url,
                            "healthy": endpoint.healthy,
                            "failures": endpoint.failures,
                            "ejected": route.upstream.ejected(endpoint),
                            "problem": endpoint.problem or None,
                        }
                        for endpoint in route.upstream.endpoints
                    ],
                }
                for route in self.snapshot.routes.values()
            },
        }
        return Readiness(ready, detail)

    def _digest(self) -> str:
        """That of the configuration in force, taken once: it is asked for by every probe."""
        if self._digested[0] is not self.snapshot.configuration:
            self._digested = self.snapshot.configuration, changes.digest(self.snapshot.configuration)
        return self._digested[1]

    def _scrape(self, scrape: Scrape) -> None:
        for route in self.snapshot.routes.values():
            name, upstream = route.server.name, route.upstream
            scrape.in_flight(name, upstream.in_flight)
            scrape.streams(name, "long-lived", upstream.streams)
            scrape.tools_withheld(name, self._pins.count(name))
            report_endpoints(scrape, route)
            for endpoint in upstream.endpoints:
                scrape.endpoint(name, endpoint.url, healthy=endpoint.healthy)
                scrape.pool(name, endpoint.url, idle=endpoint.idle, active=endpoint.active)
        self._builder.limiting.report(scrape)
        for name, count in self._approvals.held().items():
            scrape.held(name, count)
        desk = self._builder.approving.desk
        if desk.service is not None:
            scrape.state_failing(failing=bool(desk.problem))
        scrape.connections("mcp", self._listener.connections)
        scrape.connections("admin", self._admin.connections)
        self._scrape_configuration(scrape)
        scrape.audit(self.audit.stats)
        self._identities.report_metrics(scrape)

    def _scrape_configuration(self, scrape: Scrape) -> None:
        age = time.time() - self._loaded_at
        if self._origin is not None:
            age = self._origin.age()
            scrape.objects(self._origin.objects(), self._origin.watch_errors())
        scrape.config(digest=self._digest(), age=age)
        scrape.config_closed(closed=bool(self.snapshot.closed))


def _session_key(configuration: Configuration) -> bytes:
    key = configuration.sessions.key
    try:
        return read_key(key, KEY_BYTES) if key is not None else os.urandom(KEY_BYTES)
    except SecretError as error:
        raise SecretError(f"sessions.key: {error}") from error


def _most_kept(configuration: Configuration) -> int:
    """Bytes that callers may keep waiting in bodies that are not complete: a few of the largest that are allowed."""
    return max([MOST_KEPT, *(4 * server.limits.request_bytes for server in configuration.servers)])


def _log_audit(output: str, error: OSError | None) -> None:
    if error is None:
        _log.warning("the record is being written again")
    else:
        _log.error("the record cannot be written: telemetry.audit.output, %s: %s", output, error.strerror)
