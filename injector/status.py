"""Says on each MCPServer, MCPPolicy and ApprovalWorkflow of the cluster whether it is in force, and if not, why.

Done by one replica. Objects are judged namespace by namespace, as the sidecars there judge them; what is written is
compared with what is there, so that nothing is written twice, and what others wrote over is written again.

Whoever may write objects in one namespace must not take the memory of all: an object that is read takes forty times its
JSON, so large namespaces are not judged here, and little that was read is kept.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from openmcp.config.kubernetes.api import Api, ApiError, ApiUnreachable, JsonObject, route
from openmcp.config.kubernetes.assemble import Object, Parsed, Verdict, assemble, parse
from openmcp.config.kubernetes.reflector import GROUP, KINDS, VERSION, Reflector
from openmcp.injector.conditions import changed, unjudged, wanted
from openmcp.injector.metrics import Metrics

TOGETHER: Final = 0.2
"""Seconds that changes wait for others which come with them."""
AT_ONCE: Final = 8
"""Requests at the same time."""
_PAUSES: Final = (1.0, 60.0)
"""Seconds before what could not be written is tried again: the first time, and at most."""
MOST: Final = 1024 * 1024
"""Bytes of JSON that the specs of a namespace may have together, and be judged."""
LARGEST: Final = 256 * 1024
"""The same of one spec; of a larger one nothing is held."""
KEPT: Final = 2 * 1024 * 1024
"""Bytes of JSON of all specs that are kept as they were read, so that a change is judged sooner."""
_PATIENCE: Final = 30.0
"""Seconds until it is said that the objects cannot be listed."""
_log = logging.getLogger("openmcp.injector")


class _Followed(Object, frozen=True):
    """An object with what is said on it. `size`: the bytes of its spec, of which there are none if it is too large."""

    version: str = ""
    size: int = 0
    status: Any = None


class _Written(msgspec.Struct, frozen=True):
    """What was written over a version of an object, until that is heard of."""

    over: str
    version: str
    status: Any


class _Said(msgspec.Struct, frozen=True):
    """What is to be said of a version of an object."""

    object: Object
    state: str
    condition: JsonObject


class _Namespace(msgspec.Struct, frozen=True):
    """What was judged together, and how. `basis` says by which versions of which objects; `parsed` are those of them
    that are kept, `good` the last good versions."""

    basis: frozenset[tuple[str, int, int, bytes]] = frozenset()
    parsed: Mapping[str, Parsed] = {}
    good: Mapping[str, Object] = {}
    said: tuple[_Said, ...] = ()


class _Follower(Reflector):
    """A reflector over all namespaces whose objects are `_Followed`."""

    def _object(self, found: JsonObject) -> Object:
        one = super()._object(found)
        version, size = str(found["metadata"].get("resourceVersion") or ""), len(one.spec)
        if size > LARGEST:
            one = msgspec.structs.replace(one, spec=b"")
        return _Followed(**msgspec.structs.asdict(one), version=version, size=size, status=found.get("status"))


class StatusWriter:
    """Does this while `run` runs, until cancelled."""

    def __init__(self, api: Api, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._judged: dict[str, _Namespace] = {}
        self._written: dict[str, _Written] = {}
        self._told: dict[str, str] = {}
        self._followers: list[_Follower] = []

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many objects of which kind are accepted, refused, or too large to be judged."""
        every = (said for judged in self._judged.values() for said in judged.said)
        return Counter((one.object.kind, one.state) for one in every)

    async def run(self) -> None:
        """Begin anew, and go on. What was there is read again: another replica may have written since."""
        self._judged, self._written = {}, {}
        self._followers = [_Follower(self._api, kind, None, lambda changed: self._wake.set()) for kind in KINDS]
        following = [asyncio.ensure_future(follower.run()) for follower in self._followers]
        complaining = asyncio.ensure_future(self._complain())
        try:
            await self._write_all(following)
        finally:
            for task in (*following, complaining):
                task.cancel()
            await asyncio.gather(*following, complaining, return_exceptions=True)
            self._judged = {}

    async def _write_all(self, following: Sequence["asyncio.Future[None]"]) -> None:
        pause = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            await asyncio.sleep(TOGETHER)
            self._wake.clear()
            for task in following:
                if task.done():
                    task.result()  # raises what ended it
            if not all(follower.synced for follower in self._followers):
                continue
            failures = await self._pass()
            first, most = _PAUSES
            pause = None if not failures else min(most, (pause or first / 2) * 2)

    async def _pass(self) -> int:
        """Judge what has changed and write what is not there; how often writing failed."""
        self._judged = await asyncio.to_thread(_judge, list(self._present().values()), self._judged)
        present = self._present()  # judging takes a while
        self._told = {uid: said for uid, said in self._told.items() if uid in present}
        self._written = {
            uid: one for uid, one in self._written.items() if uid in present and present[uid].version == one.over
        }
        said = [one for judged in self._judged.values() for one in judged.said]
        writes = await asyncio.to_thread(_due, said, present, dict(self._written))
        gate = asyncio.Semaphore(AT_ONCE)
        done = await asyncio.gather(*(self._write(gate, one, status) for one, status in writes))
        return done.count(False)

    def _present(self) -> dict[str, _Followed]:
        """All objects there are, by uid."""
        every = (one for follower in self._followers for one in follower.objects.values())
        return {one.uid: one for one in every if isinstance(one, _Followed)}

    async def _write(self, gate: asyncio.Semaphore, one: _Followed, status: JsonObject) -> bool:
        """Whether nothing is left to be done about it."""
        path = route("apis", GROUP, VERSION, "namespaces", one.namespace, KINDS[one.kind], one.name)
        body = {"metadata": {"resourceVersion": one.version}, "status": status}
        try:
            async with gate:
                found = await self._api.patch(path, body, subresource="status")
        except ApiError as error:
            return self._failed(one, error)
        except ApiUnreachable as error:
            self._metrics.status_written("error")
            _log.debug("the status of %s cannot be written: %s", one.place, error)
            return False
        self._metrics.status_written("ok")
        self._told.pop(one.uid, None)
        version = str(found.get("metadata", {}).get("resourceVersion") or "")
        before = self._written.get(one.uid)
        self._written[one.uid] = _Written(before.over if before else one.version, version, found.get("status"))
        return True

    def _failed(self, one: Object, error: ApiError) -> bool:
        """The same, after a refusal: an object that has changed meanwhile, or is gone, is heard of."""
        passed = error.status in (404, 409)
        self._metrics.status_written("conflict" if passed else "error")
        if not passed and self._told.get(one.uid) != str(error):
            self._told[one.uid] = str(error)
            _log.error("the status of %s cannot be written: %s", one.place, error)
        return passed

    async def _complain(self) -> None:
        await asyncio.sleep(_PATIENCE)
        for follower in self._followers:
            if not follower.synced:
                _log.error("%s cannot be listed, so no status is written: %s", follower.kind, follower.problem)


def _judge(objects: Iterable[_Followed], before: Mapping[str, _Namespace]) -> dict[str, _Namespace]:
    """What is to be said of all objects. Namespaces where nothing has changed are not looked into again; small ones
    come first, so that theirs is what is kept as it was read."""
    by_namespace: dict[str, list[_Followed]] = {}
    for one in objects:
        by_namespace.setdefault(one.namespace, []).append(one)
    judged, room = {}, KEPT
    for size, name in sorted((sum(one.size for one in found), name) for name, found in by_namespace.items()):
        made = _judge_one(by_namespace[name], before.get(name, _Namespace()))
        room -= size
        judged[name] = made if room >= 0 else msgspec.structs.replace(made, parsed={})
    return judged


def _judge_one(objects: Sequence[_Followed], before: _Namespace) -> _Namespace:
    basis = frozenset((one.uid, one.generation, one.size, one.spec) for one in objects)
    if basis == before.basis:
        return before
    size = sum(one.size for one in objects)
    if size > MOST or any(one.size > LARGEST for one in objects):
        _log.warning("the objects of namespace %s are too large to be judged: %d bytes", objects[0].namespace, size)
        said = (_Said(one, "unjudged", unjudged(one, MOST, LARGEST)) for one in objects)
        return _Namespace(basis, good=before.good, said=tuple(said))
    try:
        parsed = {one.uid: _parsed(one, before) for one in objects}
        good = {uid: _again(one, parsed) for uid, one in before.good.items() if uid in parsed}
        found = assemble((), parsed.values(), good)
    except Exception:  # a fault of ours: the other namespaces have nothing to do with it
        _log.exception("the objects of namespace %s cannot be judged", objects[0].namespace)
        return _Namespace(basis, good=before.good)
    last = {uid: one.object for uid, one in found.good.items()}
    return _Namespace(basis, parsed, last, tuple(map(_said, found.verdicts)))


def _said(verdict: Verdict) -> _Said:
    return _Said(verdict.object, "accepted" if verdict.accepted else "refused", wanted(verdict))


def _parsed(one: Object, before: _Namespace) -> Parsed:
    known = before.parsed.get(one.uid)
    return known if known is not None and _same(known.object, one) else parse(one, "")


def _again(good: Object, parsed: Mapping[str, Parsed]) -> Parsed:
    """A last good version: mostly the present one."""
    present = parsed[good.uid]
    return present if _same(present.object, good) else parse(good, "")


def _same(one: Object, other: Object) -> bool:
    """Whether they are one version. Another CustomResourceDefinition may change what is read, and no generation."""
    return one.generation == other.generation and one.spec == other.spec


def _due(
    said: Iterable[_Said], present: Mapping[str, _Followed], written: Mapping[str, _Written]
) -> list[tuple[_Followed, JsonObject]]:
    """Which objects lack their condition, and the status that has it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for each in said:
        one = present.get(each.object.uid)
        if one is None or not _same(one, each.object):
            continue  # judged again in a moment
        if (ours := written.get(one.uid)) is not None:
            one = msgspec.structs.replace(one, version=ours.version, status=ours.status)
        status = changed(one.status, each.condition, now)
        if status is not None:
            found.append((one, status))
    return found
