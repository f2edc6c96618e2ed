"""Our SVIDs and the bundles of trust domains, followed from the Workload API; the last good update is kept.

Having no registration entry (yet) and having no agent are different things, and both are waited out: the process says
so once and is not ready. An SVID that has expired is handed to nobody.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, get_args

import msgspec

from openmcp.identity.follow import Follower, Stream
from openmcp.identity.material import (
    Bundles,
    CallFailed,
    FailureKind,
    JwtSvid,
    JwtUpdate,
    NoIdentity,
    Svid,
    SvidChoice,
    X509Material,
    X509Update,
)
from openmcp.identity.notices import Notices, explained
from openmcp.identity.own_jwt_svids import JwtSvids
from openmcp.identity.spiffe_id import SpiffeId

LOOK: Final = 1.0
"""Seconds between two looks at the clock."""
REOPEN: Final = 15.0
"""Seconds between two attempts to open the stream again, while the SVID is late and the stream brings nothing."""
State = Literal["ok", "waiting", "no registration entry", "agent not reachable", "expired"]
GRACE: Final = 30.0
"""Seconds of denials, one after the other, after which our SVID is no longer used (Workload API, 5.2.1). One denial
alone means little: agents also give it while they cannot find out who we are."""
_X509: Final = "X.509-SVIDs"
_JWT: Final = "JWT bundles"
_log = logging.getLogger("openmcp.identity")


class WorkloadApi(Protocol):
    """What is used of workload_api.py."""

    def x509(self) -> Stream[X509Update]:
        """Open the stream of our SVIDs and the bundles."""

    def jwt_bundles(self) -> Stream[JwtUpdate]:
        """Open the stream of JWT bundles."""

    async def jwt_svid(self, audience: str, id: SpiffeId, hint: str | None = None) -> JwtSvid:
        """Have a JWT-SVID. Raises `CallFailed`."""

    async def close(self) -> None:
        """End everything."""


Connect = Callable[[str, Callable[[], float]], WorkloadApi]


class Stats(msgspec.Struct):
    """Counters since the start. `rotations` are replacements of our SVID; `failures` are calls and streams of the
    Workload API that broke, by kind; `bad_bundles` federated bundles that were left out."""

    updates: int = 0
    rotations: int = 0
    jwt_updates: int = 0
    bad_bundles: int = 0
    failures: dict[FailureKind, int] = msgspec.field(default_factory=lambda: dict.fromkeys(get_args(FailureKind), 0))


def _connect(address: str, clock: Callable[[], float]) -> WorkloadApi:
    # Imported here: gRPC takes 20 MiB, which a sidecar without SPIFFE is spared.
    from openmcp.identity import workload_api

    return workload_api.WorkloadApi(address, clock)


class SvidSource:
    """What the Workload API at `address` (`unix:///path`, `tcp://ip:port`) says. `clock` gives Unix seconds.

    `generation` and `jwt_generation` grow with each update that changes something.
    """

    def __init__(
        self,
        address: str,
        choice: SvidChoice,
        *,
        clock: Callable[[], float] = time.time,
        connect: Connect = _connect,
    ) -> None:
        self.address = address
        self.material: X509Material | None = None
        self.generation = 0
        self.jwt_bundles: Mapping[str, bytes] = {}
        self.jwt_generation = 0
        self.stats = Stats()
        self._choice = choice
        self._clock = clock
        self._connect = connect
        self._own: Svid | None = None
        self._bad: Mapping[str, str] = {}
        self._bad_jwt: Mapping[str, str] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._api: WorkloadApi | None = None
        self._x509: Follower[X509Update] | None = None
        self._jwt: Follower[JwtUpdate] | None = None
        self._wants_jwt = False
        self._watching: asyncio.Task[None] | None = None
        self._tokens = JwtSvids(self._fetch_token, clock)
        self._notices = Notices(address)
        self._reopened = 0.0
        self._denied_since: dict[str, float] = {}

    def start(self) -> None:
        """Begin to follow the Workload API, in the running event loop. Whether anybody is there shows later."""
        api = self._api = self._connect(self.address, self._clock)
        self._x509 = Follower(api.x509, self._take, self._failed(_X509))
        self._x509.start()
        self._watching = asyncio.create_task(self._watch())
        if self._wants_jwt:
            self._follow_jwt(api)

    async def stop(self) -> None:
        """End everything that is under way; what was received stays."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._tokens.stop()
        for follower in (self._x509, self._jwt):
            if follower is not None:
                await follower.stop()
        if self._api is not None:
            await self._api.close()
            self._api = None

    def own(self) -> Svid:
        """Our SVID. Raises `NoIdentity` with the reason where there is none that could be used now."""
        own = self._own
        if own is not None and self._clock() < own.expires:
            return own
        raise NoIdentity(self._why_none())

    @property
    def identity(self) -> SpiffeId | None:
        """Whose our SVID is, also one that has expired; None without one."""
        return None if self._own is None else self._own.id

    @property
    def bundles(self) -> Bundles:
        """The bundles of the last good update; none before it."""
        return {} if self.material is None else self.material.bundles

    @property
    def expires(self) -> float | None:
        """When our SVID ends, or ended, in Unix seconds; None without one."""
        return None if self._own is None else self._own.expires

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called in the event loop after each change of `material`; gives what ends this."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def want_jwt_bundles(self) -> None:
        """Follow the JWT bundles too, from now on or from the start."""
        self._wants_jwt = True
        if self._api is not None and self._jwt is None:
            self._follow_jwt(self._api)

    def cached_jwt_svid(self, audience: str) -> str | None:
        """Our JWT-SVID for an audience; None where `jwt_svid` has to be asked."""
        return self._tokens.cached(audience)

    async def jwt_svid(self, audience: str) -> str:
        """Our JWT-SVID for an audience, from the cache or fetched once for all who wait. Raises `NoIdentity`."""
        return await self._tokens.get(audience)

    def forget_jwt_svid(self, audience: str) -> None:
        """Somebody refused our JWT-SVID: the next one is fetched."""
        self._tokens.forget(audience)

    @property
    def state(self) -> State:
        """Whether we have an identity, and if not, what is missing. `waiting`: the Workload API has not answered, or
        not with anything good."""
        if self._own is not None:
            return "ok" if self._clock() < self._own.expires else "expired"
        if self.material is not None:
            return "no registration entry"
        trouble = self._x509.trouble if self._x509 is not None else None
        return _STATES.get(trouble.kind, "waiting") if trouble is not None else "waiting"

    def report(self) -> dict[str, object]:
        """For /readyz. `reason` is there where something is wrong, also while our SVID still serves."""
        found: dict[str, object] = {"state": self.state}
        if self._own is not None:
            found["spiffeId"] = str(self._own.id)
            found["expires"] = datetime.fromtimestamp(self._own.expires, UTC).isoformat().replace("+00:00", "Z")
        found["trustDomains"] = sorted(self.bundles)
        if bad := {**self._bad_jwt, **self._bad}:
            found["badBundles"] = bad
        if reason := self._reason() or self._jwt_reason():
            found["reason"] = reason
        return found

    def look(self) -> None:
        """Compare what we have with the clock, as is done every second: alarms, another attempt for an SVID that is
        late, and the end of one that was taken from us."""
        now = self._clock()
        if self.material is not None and self._is_withdrawn(_X509, now):
            self._change(None)
        if self.jwt_bundles and self._is_withdrawn(_JWT, now):
            self.jwt_bundles = {}
            self.jwt_generation += 1
        late = self._notices.clock(self._own, now)
        if late and self._x509 is not None and self._x509.trouble is None and now >= self._reopened + REOPEN:
            self._reopened = now
            self._x509.reopen()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def _follow_jwt(self, api: WorkloadApi) -> None:
        self._jwt = Follower(api.jwt_bundles, self._take_jwt, self._failed(_JWT))
        self._jwt.start()

    def _failed(self, stream: str) -> Callable[[CallFailed], None]:
        def failed(why: CallFailed) -> None:
            self.stats.failures[why.kind] += 1
            self._notices.broken(stream, why)
            if why.kind == "denied":
                self._denied_since.setdefault(stream, self._clock())
            else:
                self._denied_since.pop(stream, None)

        return failed

    def _works(self, stream: str, bad_bundles: Mapping[str, str]) -> None:
        self.stats.bad_bundles += len(bad_bundles)
        self._denied_since.pop(stream, None)
        self._notices.works(stream)
        self._notices.bad_bundles(stream, bad_bundles)

    def _is_withdrawn(self, stream: str, now: float) -> bool:
        since = self._denied_since.get(stream)
        return since is not None and now >= since + GRACE

    def _take(self, update: X509Update) -> None:
        self.stats.updates += 1
        self._works(_X509, update.bad_bundles)
        self._bad = update.bad_bundles
        if update.material != self.material:
            self._change(update.material)

    def _change(self, material: X509Material | None) -> None:
        """Take other material, or none: what we had was taken from us."""
        before, self.material = self._own, material
        self._own = _chosen(material, self._choice) if material is not None else None
        self.generation += 1
        if before is not None and self._own is not None and self._own != before:
            self.stats.rotations += 1
        if before is None or self._own is None or self._own.id != before.id:
            self._tokens.clear()
        self._notices.own(before, self._own, self._why_none)
        for callback in tuple(self._callbacks):
            try:
                callback()
            except Exception:
                _log.exception("what has to follow an update of our SVID failed")

    def _take_jwt(self, update: JwtUpdate) -> None:
        self.stats.jwt_updates += 1
        self._works(_JWT, update.bad_bundles)
        self._bad_jwt = update.bad_bundles
        if update.bundles != self.jwt_bundles:
            self.jwt_bundles = update.bundles
            self.jwt_generation += 1

    async def _fetch_token(self, audience: str) -> JwtSvid:
        own = self.own()
        if self._api is None:
            raise NoIdentity("the Workload API is not followed")
        try:
            return await self._api.jwt_svid(audience, own.id, self._choice.hint)
        except CallFailed as failed:
            self.stats.failures[failed.kind] += 1
            raise NoIdentity(f"no JWT-SVID: {explained(failed, self.address)}") from None

    def _why_none(self) -> str:
        """Why `own` has nothing to give, in a sentence."""
        if self._own is not None:
            return f"our SVID has expired: {self._reason() or 'the Workload API sent no other'}"
        if self.material is not None:
            return _unfit(self.material, self._choice)
        return self._reason() or f"no SVID yet: {self.address} has not answered"

    def _reason(self) -> str | None:
        if self.material is not None and self._own is None:
            return _unfit(self.material, self._choice)
        trouble = self._x509.trouble if self._x509 is not None else None
        return explained(trouble, self.address) if trouble is not None else None

    def _jwt_reason(self) -> str | None:
        """What keeps us from knowing callers by their JWT-SVIDs, or from hearing of their keys."""
        trouble = self._jwt.trouble if self._jwt is not None else None
        return f"{_JWT}: {explained(trouble, self.address)}" if trouble is not None else None


_STATES: Final[Mapping[FailureKind, State]] = {
    "denied": "no registration entry",
    "unreachable": "agent not reachable",
}


def _chosen(material: X509Material, choice: SvidChoice) -> Svid | None:
    """The SVID that the choice means; the first of several that fit (Workload API, 5.2.1 and 5.3)."""
    fits = (svid for svid in material.svids if _fits(svid, choice))
    return next(fits, None)


def _fits(svid: Svid, choice: SvidChoice) -> bool:
    return choice.hint in (None, svid.hint) and choice.id in (None, str(svid.id))


def _unfit(material: X509Material, choice: SvidChoice) -> str:
    wanted = f"the hint {choice.hint!r}" if choice.hint is not None else f"the ID {choice.id}"
    return f"none of the {len(material.svids)} SVIDs we get has {wanted}; compare the registration entries"
