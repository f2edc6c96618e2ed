"""The objects of one kind in one namespace, or in all, followed: LIST, then WATCH from there, for as long as it takes.

What the API server's documents say of efficient detection of changes, and what its users learnt: a watch that is cut
goes on from the last version; one whose version is gone (410, as an answer and as an event) begins with a new list,
which replaces what was known at once; a watch on which nothing comes for longer than bookmarks take is dead. While
nothing can be had, what was known last stays known.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from openmcp.config.kubernetes.api import Api, ApiError, ApiUnreachable, JsonObject, Silent, TooLarge, refusal, route
from openmcp.config.kubernetes.assemble import Object

GROUP: Final = "openmcp.dev"
VERSION: Final = "v1alpha1"
KINDS: Final = {"MCPServer": "mcpservers", "MCPPolicy": "mcppolicies", "ApprovalWorkflow": "approvalworkflows"}
"""Kinds and their resources."""

_PAGE: Final = 500
_BRIEF: Final = 1.0
"""Seconds. A watch that ends sooner, with nothing said, would otherwise be begun again at once, for ever."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 15.0
_WORTH_SAYING: Final = 3
"""Failures in a row. A watch that is cut now and then is nothing to tell of."""
_REASONS: Final = {401: "unauthorized", 403: "forbidden", 404: "not_found", 410: "expired", 429: "too_many_requests"}
_KINDS_OF_FAILURE: Final = {TooLarge: "too_large", Silent: "silent"}
_log = logging.getLogger("openmcp.kubernetes")


class _Event(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: dict[str, Any]


class _Meta(msgspec.Struct, rename="camel"):
    """What all objects have."""

    name: str
    uid: str
    creation_timestamp: str
    namespace: str
    generation: int = 0


class Reflector:
    """Keeps `objects` (by uid) as the API server has them. `notify` is called in the event loop after each sign of life
    of the API server, with True where `objects` has changed. Without a `namespace` the whole cluster is followed."""

    def __init__(
        self,
        api: Api,
        kind: str,
        namespace: str | None,
        notify: Callable[[bool], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind
        self.objects: dict[str, Object] = {}
        self.synced = False
        """Whether a first list is complete."""
        self.heard: float | None = None
        """When the API server was last heard of, by `clock`."""
        self.problem = "not asked yet"
        """Why nothing can be had now; empty while a watch is open."""
        self.errors: Counter[str] = Counter()
        self._api = api
        within = ("namespaces", namespace) if namespace is not None else ()
        self._path = route("apis", GROUP, VERSION, *within, KINDS[kind])
        self._notify = notify
        self._sleep = sleep
        self._clock = clock
        self._version = ""
        self._page = _PAGE
        self._failures = 0
        self._told = False

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                if error.status == 410:
                    self._version = ""
                self._failed(
                    _REASONS.get(error.status, "server_error" if error.status >= 500 else "refused"), error.message
                )
                await self._pause(error.retry_after)
            except ApiUnreachable as error:
                self._shrink(error)
                self._failed(_KINDS_OF_FAILURE.get(type(error), "unreachable"), error.reason)
                await self._pause(None)
            except Exception:  # whatever it was, it must not end here, unseen
                _log.exception("following objects of kind %s failed", self.kind)
                self._version = ""
                self._failed("internal", "an error in this program, see its log")
                await self._pause(None)

    async def _list(self) -> None:
        """All objects, page by page; they replace what was known when the last page is there."""
        found: dict[str, Object] = {}
        token = ""
        while True:
            page = await self._api.list_page(self._path, limit=self._page, token=token)
            self._sign()
            for item in page.items:
                one = self._object(item)
                found[one.uid] = one
            token = page.next
            if not token:
                break
        if not page.resource_version:
            raise ApiUnreachable("a list without a resourceVersion")
        changed = not self.synced or found != self.objects
        self.objects, self.synced, self._version = found, True, page.resource_version
        if changed:
            self._notify(True)

    async def _watch(self) -> None:
        """Take in events until the watch ends."""
        params = {
            "watch": "1",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(240, 290)),  # noqa: S311 - spreads the load, no secret
        }
        begun = self._clock()
        quiet = True
        async with aclosing(self._api.stream(self._path, params, on_open=self._sign)) as lines:
            async for line in lines:
                self._sign()
                self._failures, quiet = 0, False
                self._take(line)
        if quiet and self._clock() - begun < _BRIEF:
            self._failed("closed", "watches are closed as soon as they are open")
            await self._pause(None)

    def _take(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
        except msgspec.DecodeError:
            self._version = ""  # what it said is not known
            raise ApiUnreachable("an event that is not JSON") from None
        if event.type == "ERROR":
            raise refusal(0, msgspec.json.encode(event.object))
        if event.type != "BOOKMARK":
            self._apply(event)
        self._version = _version(event.object)

    def _apply(self, event: _Event) -> None:
        one = self._object(event.object)
        before = self.objects.get(one.uid)
        if event.type == "DELETED":
            changed = self.objects.pop(one.uid, None) is not None
        elif event.type in ("ADDED", "MODIFIED"):
            # The status of an object changes more often than what it says.
            changed = before is None or before.generation != one.generation or before.spec != one.spec
            self.objects[one.uid] = one
        else:
            self._version = ""
            raise ApiUnreachable("an event of an unknown type")
        if changed:
            self._notify(True)

    def _object(self, found: JsonObject) -> Object:
        """An object as far as it is of use. What lacks a part that all objects have cannot be from an API server."""
        try:
            meta = msgspec.convert(found.get("metadata"), _Meta)
        except msgspec.ValidationError:
            self._version = ""
            raise ApiUnreachable("an object without name, uid or creationTimestamp") from None
        spec = msgspec.json.encode(found.get("spec"))
        return Object(self.kind, meta.namespace, meta.name, meta.uid, meta.generation, meta.creation_timestamp, spec)

    def _sign(self) -> None:
        self.heard = self._clock()
        self.problem = ""
        if self._told:
            self._told = False
            _log.info("objects of kind %s are followed again", self.kind)
        self._notify(False)

    def _shrink(self, error: ApiUnreachable) -> None:
        if isinstance(error, TooLarge) and not self._version:
            self._page = max(self._page // 4, 1)

    def _failed(self, reason: str, message: str) -> None:
        self.errors[reason] += 1
        self.problem = message

    async def _pause(self, asked: float | None) -> None:
        """Wait before the next attempt: what the server asked for and at most half as much again, else ever longer, by
        chance."""
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        self._failures += 1
        if self._failures == _WORTH_SAYING:
            self._told = True
            _log.warning("objects of kind %s cannot be followed: %s", self.kind, self.problem)
        chance = random.uniform(0, longest)  # noqa: S311 - spreads the load, no secret
        wanted = min(asked or 0.0, 60.0)
        await self._sleep(wanted + min(chance, wanted / 2) if wanted > 0 else chance)


def _version(found: JsonObject) -> str:
    meta = found.get("metadata")
    version = meta.get("resourceVersion") if isinstance(meta, dict) else None
    if not isinstance(version, str) or not version:
        raise ApiUnreachable("an event without a resourceVersion")
    return version
