"""The certificate that the webhook serves by: read from files, or built in, where a Secret is shared by all replicas.

Either is looked at again and again, and followed without closing a connection. What is served stays the last good one.
"""

import asyncio
import base64
import binascii
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from openmcp.config.kubernetes.api import JSON_PATCH, MERGE_PATCH, Api, ApiError, ApiUnreachable, route
from openmcp.identity.webtls import FileTls, TlsUnusable
from openmcp.injector.authority import Generation, facts
from openmcp.injector.settings import BuiltInTls, FilesTls
from openmcp.injector.stock import Stock, advance, authorities, bundle, decoded, encoded

LOOK: Final = 5.0
"""Seconds between two looks."""
_UNREADY: Final = 1.0
"""The same while nothing is served that API servers trust."""
_AT_ONCE: Final = 4
"""Looks that follow each other where each one has changed something."""
_MAX_FILE: Final = 1024 * 1024
_CERT_MANAGER: Final = "cert-manager.io/inject-"
_log = logging.getLogger("openmcp.injector")

JsonObject = dict[str, Any]


class Served:
    """What is served now. `first` is set once there is something; `tls` is there from then on."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tls: FileTls | None = None
        self.first = asyncio.Event()
        self.certificate = b""
        self.taken = 0
        """How many certificates were taken over, the first one too."""

    @property
    def tls(self) -> FileTls:
        """For the listener. Only from `first` on."""
        assert self._tls is not None
        return self._tls

    def take(self, certificate: bytes, key: bytes) -> None:
        """Serve by these from now on. Raises `TlsUnusable`, and then nothing has changed."""
        if self._tls is None:
            self._tls, changed = FileTls(certificate, key), True
        else:
            changed = self._tls.reload(certificate, key)
        if changed:
            self.certificate = certificate
            self.taken += 1
            self.first.set()
            _log.info("serving by a certificate that ends at %s", _when(self.ends))

    @property
    def ends(self) -> float:
        """When the certificate ends, in Unix seconds; 0 where there is none."""
        found = facts(self.certificate) if self.certificate else None
        return found.ends if found else 0.0

    def fault(self) -> str:
        """Why no API server would take the certificate; empty where there is no reason."""
        if not self.first.is_set():
            return "there is no certificate yet"
        return "" if self._clock() < self.ends else f"the certificate ended at {_when(self.ends)}"


class Keeper(Protocol):
    """Keeps `served` up to date while `run` runs, until cancelled; `fault` says what hinders readiness, or nothing.

    `unasked` says why API servers do not ask any replica: nothing, if they do; None where others see to that.
    """

    served: Served

    async def run(self) -> None: ...

    def fault(self) -> str: ...

    def unasked(self) -> str | None: ...


class FromFiles:
    """Certificate and key from files that somebody else writes, such as the kubelet from a Secret of cert-manager."""

    def __init__(self, settings: FilesTls, *, look: float = LOOK) -> None:
        self.served = Served()
        self._paths = Path(settings.certificate), Path(settings.key)
        self._look = look
        self._failing = self._said = ""

    async def run(self) -> None:
        """See `Keeper`."""
        while True:
            self._take(*await asyncio.to_thread(self._read))
            await asyncio.sleep(self._look)

    def fault(self) -> str:
        """See `Keeper`."""
        fault = self.served.fault()
        return f"{fault}: {self._failing}" if fault and self._failing else fault

    def unasked(self) -> str | None:
        """See `Keeper`: the configuration of the webhook is not ours to read."""
        return None

    def _read(self) -> tuple[bytes, bytes, str]:
        found = []
        for path in self._paths:
            try:
                with path.open("rb") as stream:
                    found.append(stream.read(_MAX_FILE))
            except OSError as error:
                return b"", b"", f"{path}: {error.strerror}"
        return found[0], found[1], ""

    def _take(self, certificate: bytes, key: bytes, failure: str) -> None:
        try:
            if not failure:
                self.served.take(certificate, key)
        except TlsUnusable as error:
            failure = f"{self._paths[0]} and {self._paths[1]}: {error}"
        # Once may be a look between two files that are being replaced.
        if failure and failure == self._failing != self._said:
            becomes = "what was there before is served" if self.served.first.is_set() else "nothing is served yet"
            _log.warning("the certificate cannot be read, %s: %s", becomes, failure)
            self._said = failure
        elif not failure:
            self._said = ""
        self._failing = failure


class Elected(Protocol):
    """Says whether we are the one that writes."""

    @property
    def held(self) -> bool: ...


class BuiltIn:
    """Certificates made by ourselves. Every replica reads the Secret; the one that holds the Lease writes it, and
    keeps the caBundle of the MutatingWebhookConfiguration.

    `clock` tells Unix seconds. Raises `ValueError` where the names of the settings are none.
    """

    def __init__(
        self, api: Api, namespace: str, settings: BuiltInTls, lease: Elected, *, clock: Callable[[], float] = time.time
    ) -> None:
        secrets = route("api", "v1", "namespaces", namespace, "secrets")
        self._secrets, self._secret = secrets, secrets + route(settings.secret)
        kind = route("apis", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations")
        self._webhook = kind + route(settings.webhook)
        self._api = api
        self._settings = settings
        self._lease = lease
        self._clock = clock
        self._pause = max(0.2, min(LOOK, settings.lifetime / 40))
        self.served = Served(clock)
        self._trusted: frozenset[bytes] = frozenset()
        self._own: frozenset[bytes] = frozenset()
        self._lacking = ""
        self._unfit = "the configuration of the webhook was not read yet"
        self._problem = "the API server was not reached yet"

    async def run(self) -> None:
        """See `Keeper`."""
        while True:
            for _ in range(_AT_ONCE):
                if not await self._tried():
                    break
            pause = min(self._pause, _UNREADY) if self.fault() else self._pause
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, no secret

    def fault(self) -> str:
        """See `Keeper`."""
        fault = self.served.fault()
        if fault:
            return f"{fault}: {self._problem}" if self._problem else fault
        if self._own <= self._trusted:
            return ""
        return self._problem or "the CA of the certificate is not in the caBundle of the webhook yet"

    def unasked(self) -> str | None:
        """See `Keeper`. While the API server is away, what was seen last holds."""
        if self._unfit:
            return self._unfit
        ours = self._own and self._own <= self._trusted
        return "" if ours else "the caBundle of the webhook lacks the CA of the certificate"

    async def _tried(self) -> bool:
        """One look; whether it has changed something, so that another one is of use."""
        problem, changed = "", False
        try:
            changed = await self.look()
            problem = "" if changed else self._lacking
        except ApiError as error:
            if error.status != 409:  # a conflict: the next look sees what others wrote
                problem = str(error)
        except (ApiUnreachable, _Unusable) as error:
            problem = str(error)
        if problem and problem != self._problem:
            _log.warning("certificates: %s", problem)
        self._problem = problem
        return changed

    async def look(self) -> bool:
        """Read, take over, and write where that is ours to do and due; whether anything was written.

        The configuration is read before the Secret: a caBundle that is newer than the Secret it was made from is
        never written over, as the write is conditional.
        """
        try:
            return await self._looked()
        except _Unfit as error:
            self._unfit = str(error)
            raise

    async def _looked(self) -> bool:
        webhook = await self._found(self._webhook)
        if webhook is None:
            gone = f"the MutatingWebhookConfiguration {self._settings.webhook} is not there"
            raise _Unfit(f"{gone}: no pod is given a sidecar")
        secret = await self._found(self._secret)
        stock = decoded(secret.get("data") or {} if secret else {})
        self._lacking = self._take(stock.current)
        self._trusted = _trusted(webhook)
        names, self._unfit = _names(webhook), ""
        if not self._lease.held:
            return False
        wanted = bundle(stock)
        agreed = all(authorities(found) == authorities(wanted) for found in _bundles(webhook))
        written = stock.current is not None and not agreed
        if written:
            await self._publish(webhook, wanted)
        step = advance(stock, names, self._clock(), self._settings.lifetime, trusted=agreed)
        if step != stock:
            await self._write(secret, step)
            if step.current != stock.current:
                _log.info("the webhook goes over to another certificate")
        return written or step != stock

    def _take(self, current: Generation | None) -> str:
        """Serve by it; why it cannot be served by, or nothing. Whoever writes the Secret replaces it then."""
        if current is None:
            return f"the Secret {self._settings.secret} holds no certificate"
        try:
            self.served.take(current.certificate, current.key)
        except TlsUnusable as error:
            return f"the Secret {self._settings.secret}: {error}"
        self._own = authorities(current.ca)
        return ""

    async def _found(self, path: str) -> JsonObject | None:
        try:
            return await self._api.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _publish(self, webhook: JsonObject, wanted: bytes) -> None:
        """Have API servers trust exactly these, where nobody has written the configuration since it was read."""
        text = base64.b64encode(wanted).decode()
        steps: list[JsonObject] = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": webhook["metadata"]["resourceVersion"]}
        ]
        for number, one in enumerate(webhook["webhooks"]):
            steps.append({"op": "test", "path": f"/webhooks/{number}/name", "value": one["name"]})
            steps.append({"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": text})
        await self._api.patch(self._webhook, steps, content_type=JSON_PATCH)
        _log.info("the caBundle of the webhook holds %d CAs now", len(authorities(wanted)))

    async def _write(self, secret: JsonObject | None, stock: Stock) -> None:
        data = encoded(stock)
        if secret is not None:
            version = {"resourceVersion": secret["metadata"]["resourceVersion"]}
            await self._api.patch(self._secret, {"metadata": version, "data": data}, content_type=MERGE_PATCH)
            return
        made = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": self._settings.secret, "labels": {"app.kubernetes.io/managed-by": "openmcp-injector"}},
            "data": {key: value for key, value in data.items() if value is not None},
        }
        try:
            await self._api.create(self._secrets, made)
        except ApiError as error:
            if error.status != 403:
                raise
            gone = f"the Secret {self._settings.secret} is not there"
            raise _Unusable(f"{gone}: whoever installed the injector makes it, empty ({error})") from None


class _Unusable(Exception):
    """What is in the cluster is not such that certificates of ours can be had; the text says why."""


class _Unfit(_Unusable):
    """It is the configuration of the webhook that is not."""


def _names(webhook: JsonObject) -> frozenset[str]:
    """By which names API servers call it."""
    annotations = webhook.get("metadata", {}).get("annotations") or {}
    if any(key.startswith(_CERT_MANAGER) for key in annotations):
        raise _Unfit(f"{_title(webhook)} has an annotation of cert-manager, which would write its caBundle as well")
    names = {_name(one.get("clientConfig") or {}) for one in webhook.get("webhooks") or []}
    if not names or None in names:
        raise _Unfit(f"{_title(webhook)} has no webhook, or one without a service and a URL")
    return frozenset(name for name in names if name)


def _name(client: JsonObject) -> str | None:
    service = client.get("service")
    if isinstance(service, dict):
        return f"{service.get('name')}.{service.get('namespace')}.svc"
    return urlsplit(str(client.get("url") or "")).hostname


def _title(webhook: JsonObject) -> str:
    return f"the MutatingWebhookConfiguration {webhook.get('metadata', {}).get('name')}"


def _bundles(webhook: JsonObject) -> list[bytes]:
    found = []
    for one in webhook.get("webhooks") or []:
        try:
            found.append(base64.b64decode((one.get("clientConfig") or {}).get("caBundle") or ""))
        except binascii.Error:
            found.append(b"")
    return found


def _trusted(webhook: JsonObject) -> frozenset[bytes]:
    """What every webhook of it trusts."""
    every = [authorities(found) for found in _bundles(webhook)]
    return frozenset.intersection(*every) if every else frozenset()


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
