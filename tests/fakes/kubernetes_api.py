"""A Kubernetes API server as far as clients that list, watch and write see it, with all that goes wrong on the way.

Any resource exists as soon as somebody writes an object of it. Lists are paged, watches go on from a version of the
history and send bookmarks; conflicts, missing objects and forgotten history are answered as the real one answers them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from aiohttp import web

from openmcp.config.kubernetes.credentials import Access

Json = dict[str, Any]
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_KINDS = {"mcpservers": "MCPServer", "mcppolicies": "MCPPolicy", "approvalworkflows": "ApprovalWorkflow"}
OURS = "/apis/openmcp.dev/v1alpha1/namespaces/{}/{}"


@dataclass
class Answer:
    """Instead of what would be answered to a request: a status with its reason, headers, or a body that is no JSON."""

    status: int
    reason: str = "InternalError"
    message: str = "something is wrong"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def response(self) -> web.Response:
        """Return it as HTTP."""
        if self.body is not None:
            return web.Response(status=self.status, body=self.body, headers=self.headers)
        return web.json_response(
            _status(self.status, self.reason, self.message), status=self.status, headers=self.headers
        )


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None

    @property
    def watches(self) -> bool:
        """Return whether it is a watch."""
        return self.query.get("watch") in ("1", "true")


class KubernetesApi:
    """A running one. `asked` are the requests so far; `answers` are given instead of the next ones that `match`."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self.objects: dict[str, Json] = {}
        self.answers: deque[Answer] = deque()
        self.match: str = ""
        self.expired_as_event = False
        self.silent = False
        """Watches stay open, and changes are not told on them."""
        self._history: list[tuple[int, str, str, Json]] = []
        self._forgotten = 0
        self._versions = count(101)
        self._version = 100
        self._ages = count()
        self._watches: list[_Watch] = []
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None

    # What a test does.

    def put(self, kind: str, name: str, spec: Any, namespace: str = "test", **metadata: Any) -> Json:
        """Create an object of ours, or give it another spec."""
        resource = next(resource for resource, its in _KINDS.items() if its == kind)
        path = f"{OURS.format(namespace, resource)}/{name}"
        known = self.objects.get(path)
        made = {
            "apiVersion": "openmcp.dev/v1alpha1",
            "kind": kind,
            "metadata": {**(known or {}).get("metadata", {"name": name, "namespace": namespace}), **metadata},
            "spec": spec,
        }
        return self._store(path, made, known)

    def remove(self, kind: str, name: str, namespace: str = "test") -> None:
        """Delete an object of ours."""
        resource = next(resource for resource, its in _KINDS.items() if its == kind)
        self._delete(f"{OURS.format(namespace, resource)}/{name}")

    def touch(self, kind: str, name: str, status: Json, namespace: str = "test") -> None:
        """Give an object of ours another status, which leaves its generation as it is."""
        resource = next(resource for resource, its in _KINDS.items() if its == kind)
        path = f"{OURS.format(namespace, resource)}/{name}"
        self._store(path, {**self.objects[path], "status": status}, self.objects[path], spec=False)

    def forget(self) -> None:
        """Compact: watches from before now are answered with 410."""
        self._forgotten = self._version
        self._history.clear()

    def cut(self) -> None:
        """Break all watches off, in the middle of a chunk."""
        for watch in self._watches:
            watch.queue.put_nowait(None)

    def say(self, line: bytes) -> None:
        """Send a line on all watches, whatever it is."""
        for watch in self._watches:
            watch.queue.put_nowait(line)

    def bookmark(self) -> None:
        """Send a bookmark on all watches."""
        for watch in self._watches:
            metadata = {"resourceVersion": str(self._version)}
            watch.send("BOOKMARK", {"kind": watch.kind, "apiVersion": "openmcp.dev/v1alpha1", "metadata": metadata})

    @property
    def watching(self) -> int:
        """Return how many watches are open."""
        return len(self._watches)

    async def until(self, found: Any, patience: float = 10.0) -> None:
        """Wait until `found()` is true; it is asked again after each request, and each time a watch opens or ends."""
        async with asyncio.timeout(patience):
            while not found():
                self._arrived.clear()
                await self._arrived.wait()

    def kubeconfig(self, namespace: str = "test") -> str:
        """Return what `kubectl` would reach it by."""
        made = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {"token": "a-token"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "current-context": "x",
        }
        return json.dumps(made)

    async def start(self) -> None:
        """Listen, at the same port as before."""
        application = web.Application(client_max_size=1 << 22)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Be away."""
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()

    # What clients do.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            json.loads(body) if body else None,
        )
        self.asked.append(asked)
        self._arrived.set()
        if self.answers and self.match in f"{'WATCH' if asked.watches else asked.method} {asked.path}":
            return self.answers.popleft().response()
        if asked.watches:
            return await self._watch(request, asked)
        return getattr(self, f"_{asked.method.lower()}")(asked)  # type: ignore[no-any-return]  # one of those below

    def _get(self, asked: Asked) -> web.Response:
        if asked.path in self.objects:
            return web.json_response(self.objects[asked.path])
        if asked.path.rpartition("/")[2] in _KINDS or any(_within(path, asked.path) for path in self.objects):
            return self._list(asked)
        return _refuse(404, "NotFound", f"{asked.path} not found")

    def _list(self, asked: Asked) -> web.Response:
        names = sorted(path for path in self.objects if _within(path, asked.path))
        begin, version = 0, self._version
        if "continue" in asked.query:
            begin, version = map(int, asked.query["continue"].split("."))
            if version < self._forgotten:
                return _refuse(410, "Expired", "The provided continue parameter is too old")
        limit = int(asked.query.get("limit") or 0) or len(names)
        metadata: Json = {"resourceVersion": str(version)}
        if begin + limit < len(names):
            metadata["continue"] = f"{begin + limit}.{version}"
        items = [
            {key: value for key, value in self.objects[name].items() if key not in ("kind", "apiVersion")}
            for name in names[begin : begin + limit]
        ]
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})

    def _post(self, asked: Asked) -> web.Response:
        path = f"{asked.path}/{asked.body['metadata']['name']}"
        if path in self.objects:
            return _refuse(409, "AlreadyExists", f"{path} already exists")
        return web.json_response(self._store(path, asked.body, None), status=201)

    def _put(self, asked: Asked) -> web.Response:
        known = self.objects.get(asked.path)
        if known is None:
            return _refuse(404, "NotFound", f"{asked.path} not found")
        version = asked.body.get("metadata", {}).get("resourceVersion")
        if version not in (None, known["metadata"]["resourceVersion"]):
            return _refuse(409, "Conflict", "the object has been modified")
        return web.json_response(self._store(asked.path, asked.body, known))

    def _patch(self, asked: Asked) -> web.Response:
        path = asked.path.removesuffix("/status")
        known = self.objects.get(path)
        if known is None:
            return _refuse(404, "NotFound", f"{path} not found")
        version = asked.body.get("metadata", {}).get("resourceVersion")
        if version not in (None, known["metadata"]["resourceVersion"]):
            return _refuse(409, "Conflict", "the object has been modified")
        return web.json_response(self._store(path, _merged(known, asked.body), known, spec=path == asked.path))

    def _delete(self, asked: Asked | str) -> web.Response:
        path = asked if isinstance(asked, str) else asked.path
        known = self.objects.pop(path, None)
        if known is None:
            return _refuse(404, "NotFound", f"{path} not found")
        gone = copy.deepcopy(known)
        gone["metadata"]["resourceVersion"] = self._next()
        self._tell("DELETED", path, gone)
        return web.json_response(_status(200, "", ""))

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        begin = int(asked.query.get("resourceVersion") or self._version)
        if begin < self._forgotten and not self.expired_as_event:
            return _refuse(410, "Expired", f"too old resource version: {begin} ({self._forgotten})")
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        watch = _Watch(asked.path, _KINDS.get(asked.path.rpartition("/")[2], ""))
        if begin < self._forgotten:
            watch.send("ERROR", _status(410, "Expired", f"too old resource version: {begin}"))
            watch.queue.put_nowait(b"")
        for version, event, path, found in self._history:
            if version > begin and _within(path, asked.path):
                watch.send(event, found)
        self._watches.append(watch)
        self._arrived.set()
        try:
            await self._feed(watch, response)
        finally:
            self._watches.remove(watch)
            self._arrived.set()
        if watch.broken and request.transport is not None:
            request.transport.abort()
        return response

    async def _feed(self, watch: _Watch, response: web.StreamResponse) -> None:
        while True:
            line = await watch.queue.get()
            if line is None:
                watch.broken = True
                return
            if not line:
                return
            await response.write(line if line.endswith(b"\n") else line + b"\n")

    def _store(self, path: str, made: Json, known: Json | None, *, spec: bool = True) -> Json:
        stored = copy.deepcopy(made)
        metadata = stored.setdefault("metadata", {})
        generation = (
            1 if known is None else known["metadata"]["generation"] + (spec and known.get("spec") != made.get("spec"))
        )
        age = _BEGINNING + timedelta(seconds=next(self._ages))
        metadata.setdefault("uid", str(uuid4()))
        metadata.setdefault("creationTimestamp", age.strftime("%Y-%m-%dT%H:%M:%SZ"))
        metadata |= {"generation": generation, "resourceVersion": self._next()}
        self.objects[path] = stored
        self._tell("ADDED" if known is None else "MODIFIED", path, stored)
        return stored

    def _next(self) -> str:
        self._version = next(self._versions)
        return str(self._version)

    def _tell(self, event: str, path: str, found: Json) -> None:
        self._history.append((self._version, event, path, copy.deepcopy(found)))
        for watch in self._watches if not self.silent else ():
            if _within(path, watch.path):
                watch.send(event, found)


class _Watch:
    """An open watch: lines that go out, None to break off, an empty one to end."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.broken = False
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, event: str, found: Json) -> None:
        self.queue.put_nowait(json.dumps({"type": event, "object": found}).encode())


class Reach:
    """Credentials for it: over plain HTTP, with a token."""

    def __init__(self, api: KubernetesApi, namespace: str = "test") -> None:
        self.namespace = namespace
        self._api = api

    async def access(self) -> Access:
        """See `Credentials`."""
        return Access(f"http://127.0.0.1:{self._api.port}", None, "a-token")


@asynccontextmanager
async def kubernetes_api() -> AsyncIterator[KubernetesApi]:
    """Run one."""
    api = KubernetesApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


def _within(path: str, collection: str) -> bool:
    """Whether an object is in a collection: that of its namespace, or of all."""
    parent = path.rpartition("/")[0]
    return collection in (parent, re.sub("/namespaces/[^/]+", "", parent, count=1))


def _merged(known: Any, change: Any) -> Any:
    """A merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    made = dict(known) if isinstance(known, dict) else {}
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _status(code: int, reason: str, message: str) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


def _refuse(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(_status(code, reason, message), status=code)
