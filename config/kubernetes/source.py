"""The configuration as a file for one part and objects of Kubernetes for the other, both of which may change."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from openmcp.config.filesource import FileSource, referenced_files
from openmcp.config.kubernetes import guard
from openmcp.config.kubernetes.api import Api
from openmcp.config.kubernetes.assemble import Assembled, Object, Parsed, Standing, Verdict, assemble, parse
from openmcp.config.kubernetes.reflector import KINDS, Reflector
from openmcp.config.load import Loaded
from openmcp.config.model import Configuration, KubernetesOrigin, Server
from openmcp.config.problems import ConfigurationError, Problem

WAITING: Final = "there is no configuration yet: the Kubernetes API has not told it"
STALE: Final = "the configuration may be out of date: the Kubernetes API has not been heard of for too long"
RESTART: Final = "source.type changes only with a restart"
_QUIET: Final = 0.03
"""Seconds without a change after which a burst of them is over."""
_PATIENCE: Final = 0.25
"""Seconds after which what there is of a burst is taken."""
_SHOWN: Final = 20
_STATES: Final = {Standing.CURRENT: "accepted", Standing.PREVIOUS: "previous", Standing.DENIED: "denied"}
_log = logging.getLogger("openmcp.kubernetes")


class KubernetesSource:
    """Has the interface of `FileSource`: a file that says `source: {type: kubernetes}`, and the objects of a namespace.

    Before all objects are known, and where `maxStaleness` is passed, what it gives is `closed`. Used from one event
    loop; what takes long is done in a thread.
    """

    def __init__(
        self,
        file: FileSource,
        api: Api,
        *,
        fault: "Callable[[Configuration, Server], str | None]" = lambda configuration, server: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over the file and the API, which is closed with `changes`. `fault` says what keeps this machine from
        using a server, such as a file that is not there: then its object is not valid here."""
        self._file = file
        self._api = api
        self._fault = fault
        self._clock = clock
        self._begun = clock()
        self._base: Loaded | None = None
        self._origin = KubernetesOrigin()
        self.namespace = ""
        """Where the objects are."""
        self._last: Loaded | None = None
        self._closed = WAITING
        self._known = False
        self._reflectors: list[Reflector] = []
        self._parsed: dict[str, Parsed] = {}
        self._good: dict[str, Parsed] = {}
        self._verdicts: tuple[Verdict, ...] = ()
        self._told: set[tuple[str, int, Standing]] = set()
        self._warned: frozenset[Problem] = frozenset()
        self._extra: tuple[str | Path, ...] = ()
        self._changes = 0
        self._taken = 0
        self._renewed = False
        self._refused: ConfigurationError | None = None
        self._woken = asyncio.Event()

    def load(self) -> Loaded:
        """Read the file, as `FileSource.load` does. It is closed: the objects come with `changes`."""
        self._base = self._last = self._file.load()
        origin = self._base.configuration.source
        assert isinstance(origin, KubernetesOrigin), "a file of another type has no use for this"
        self._warned = frozenset(self._base.warnings)
        self._origin, self.namespace = origin, origin.namespace or self._api.namespace
        self._reflectors = [
            Reflector(self._api, kind, self.namespace, self._notify, clock=self._clock) for kind in KINDS
        ]
        return msgspec.structs.replace(self._base, closed=WAITING)

    def watch(self, paths: Iterable[str | Path]) -> None:
        """Watch these files too, instead of those named by an earlier call."""
        self._extra = tuple(paths)
        self._watch_files()

    def poke(self) -> None:
        """Have `changes` read the file again at once (SIGHUP)."""
        self._file.poke()

    @property
    def problem(self) -> str:
        """What keeps it from being up to date; empty where nothing does."""
        return "; ".join(sorted({reflector.problem for reflector in self._reflectors if reflector.problem}))

    async def changes(self) -> AsyncGenerator[Loaded | ConfigurationError, None]:
        """First everything as soon as it is known, and then after each change, as `FileSource.changes` does; also where
        it becomes closed and open again. Never ends."""
        tasks = [asyncio.create_task(reflector.run()) for reflector in self._reflectors]
        tasks.append(asyncio.create_task(self._follow_file()))
        for task in tasks:
            task.add_done_callback(_tell_end)
        try:
            while True:
                await self._wait()
                for found in await self._take():
                    yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._api.close()

    def age(self) -> float:
        """Seconds since the API server was last heard of, by the kind that has waited longest; before, since `load`."""
        heard = (reflector.heard for reflector in self._reflectors)
        return self._clock() - min(self._begun if time is None else time for time in heard)

    def objects(self) -> Iterator[tuple[str, str, int]]:
        """How many objects of each kind are accepted, in force by their previous version, or denied."""
        counted = Counter((verdict.object.kind, verdict.standing) for verdict in self._verdicts)
        return ((kind, word, counted[kind, standing]) for kind in KINDS for standing, word in _STATES.items())

    def watch_errors(self) -> Iterator[tuple[str, str, int]]:
        """How often following a kind failed for a reason."""
        return (
            (reflector.kind, reason, count)
            for reflector in self._reflectors
            for reason, count in reflector.errors.items()
        )

    def report(self) -> dict[str, Any]:
        """The state of things for `/readyz`."""
        refused = [verdict for verdict in self._verdicts if not verdict.accepted]
        return {
            "type": "kubernetes",
            "namespace": self.namespace,
            "age": round(self.age(), 1),
            "closed": self._closed or None,
            "kinds": {
                reflector.kind: {"objects": len(reflector.objects), "problem": reflector.problem or None}
                for reflector in self._reflectors
            },
            "refused": {
                verdict.object.place: {
                    "inForce": _STATES[verdict.standing],
                    "errors": _first(verdict.errors),
                }
                for verdict in refused[:_SHOWN]
            },
        }

    def _notify(self, changed: bool) -> None:
        if changed:
            self._changes += 1
        if changed or self._closed:
            self._woken.set()

    async def _follow_file(self) -> None:
        async for found in self._file.changes():
            if isinstance(found, Loaded) and isinstance(found.configuration.source, KubernetesOrigin):
                self._base, self._renewed = found, True
                self._changes += 1
            elif isinstance(found, Loaded):
                self._refused = ConfigurationError([Problem(file="source", line=None, path="", message=RESTART)])
            else:
                self._refused = found
            self._woken.set()

    async def _wait(self) -> None:
        """Until there is something to take."""
        while not self._is_due():
            self._woken.clear()
            try:
                async with asyncio.timeout(self._until_stale()):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def _is_due(self) -> bool:
        closed = self._should_be_closed()
        return self._refused is not None or closed != self._closed or (closed != STALE and self._to_assemble())

    def _to_assemble(self) -> bool:
        return self._changes != self._taken and all(reflector.synced for reflector in self._reflectors)

    def _should_be_closed(self) -> str:
        if not self._known:
            return WAITING
        limit = self._origin.max_staleness
        return STALE if limit is not None and self.age() >= limit else ""

    def _until_stale(self) -> float | None:
        """Seconds until what is known is too old; None where that is never, or has come."""
        limit = self._origin.max_staleness
        return limit - self.age() if limit is not None and not self._closed else None

    async def _take(self) -> list[Loaded | ConfigurationError]:
        """What has become of it all since the last time."""
        found: list[Loaded | ConfigurationError] = []
        if self._refused is not None:
            found.append(self._refused)
            self._refused = None
        closed = self._should_be_closed()
        if closed != STALE and self._to_assemble():
            found += await self._assembled()
        elif closed != self._closed:
            self._closed = closed
            assert self._last is not None, "`load` comes first"
            found.append(msgspec.structs.replace(self._last, closed=closed, warnings=()))
        return found

    async def _assembled(self) -> list[Loaded | ConfigurationError]:
        await self._settled()
        self._taken, renewed, self._renewed = self._changes, self._renewed, False
        objects = [one for reflector in self._reflectors for one in reflector.objects.values()]
        made = await asyncio.to_thread(self._assemble, objects)
        self._good = dict(made.good)
        self._verdicts = made.verdicts
        self._tell(made.verdicts)
        result = made.result
        if isinstance(result, ConfigurationError):
            return [result]
        same = self._last is not None and result.configuration == self._last.configuration
        if same and not renewed and not self._closed:
            return []
        self._last, self._closed, self._known = result, "", True
        self._watch_files()
        warned, self._warned = self._warned, frozenset(result.warnings)
        new = tuple(warning for warning in result.warnings if warning not in warned)
        if len(new) > _SHOWN:
            _log.warning("%d warnings are new, of which these are the first %d", len(new), _SHOWN)
        return [msgspec.structs.replace(result, warnings=new[:_SHOWN])]

    async def _settled(self) -> None:
        """Until a burst of changes is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        seen = -1
        while seen != self._changes and loop.time() < end:
            seen = self._changes
            await asyncio.sleep(_QUIET)

    def _assemble(self, objects: list[Object]) -> Assembled:
        """In a thread: nothing else is done with these attributes meanwhile."""
        assert self._base is not None, "`load` comes first"
        documents = self._base.base
        base = documents[0].base if documents else ""
        parsed: dict[str, Parsed] = {}
        for one in objects:
            known = self._parsed.get(one.uid)
            if known is None or known.object.spec != one.spec:
                parsed[one.uid] = parse(one, base)
            else:
                parsed[one.uid] = msgspec.structs.replace(known, object=one)
        self._parsed = parsed
        return assemble(documents, map(self._checked, parsed.values()), self._good)

    def _checked(self, parsed: Parsed) -> Parsed:
        """A server that cannot be used here is refused; one that could be used stays, whatever became of its files. Not
        so where it wants what is the sidecar's own."""
        if parsed.entry is None or not isinstance(parsed.entry[1], Server):
            return parsed
        assert self._base is not None, "`load` comes first"
        base, server = self._base.configuration, parsed.entry[1]
        good = self._good.get(parsed.object.uid)
        known = good is not None and good.object.spec == parsed.object.spec
        fault = guard.fault(base, server) or (None if known else self._fault(base, server))
        if fault is None:
            return parsed
        problem = Problem(file=parsed.object.place, line=None, path="spec", message=fault)
        return msgspec.structs.replace(parsed, entry=None, errors=(problem,))

    def _tell(self, verdicts: Iterable[Verdict]) -> None:
        """Log each refusal once."""
        told = set()
        for verdict in verdicts:
            key = verdict.object.uid, verdict.object.generation, verdict.standing
            if verdict.accepted:
                continue
            told.add(key)
            if key not in self._told:
                previous = verdict.standing is Standing.PREVIOUS
                becomes = "its last good version stays in force" if previous else "what it is about is denied"
                _log.error(
                    "%s is not valid, and %s:\n%s", verdict.object.place, becomes, "\n".join(_first(verdict.errors))
                )
        self._told = told

    def _watch_files(self) -> None:
        """Files that objects refer to are looked at as well."""
        assert self._last is not None, "`load` comes first"
        self._file.watch((*self._extra, *referenced_files(self._last.configuration)))


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("changes are not followed any more", exc_info=task.exception())


def _first(problems: Sequence[Problem]) -> list[str]:
    """What is wrong, and how much more; the status of an object has all of it."""
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return [*map(str, problems[:_SHOWN]), *more]
