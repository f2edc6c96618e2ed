"""The way to the Kubernetes API server: bounded requests in JSON, and watches line by line. The door to aiohttp.

Not the official client: it would take tens of MiB in each pod, and its watch cannot be driven as it has to be (see
`reflector`). One `Api` has one session; the token and the CA are looked at anew for each request.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openmcp.config.kubernetes.credentials import Access, Credentials, InCluster, Kubeconfig, NoCluster
from openmcp.identity.fetch import AnswerTooLarge, FetchFailed, body_of, reason_of

if TYPE_CHECKING:
    import aiohttp

JsonObject = dict[str, Any]

PATIENCE: Final = 15.0
"""Seconds for a whole request, watches aside."""
LIMIT: Final = 4 * 1024 * 1024
"""Bytes of an answer."""
LINE: Final = 8 * 1024 * 1024
"""Bytes of one event of a watch; etcd takes objects of 1.5 MiB."""
SILENCE: Final = 70.0
"""Seconds without a byte after which a watch is given up. Bookmarks come each minute, but none before an API server
that was just started, or a kind just installed, has seen a first change; a new watch has them then."""
CONNECT: Final = 5.0

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class ApiError(Exception):
    """The API server refused: `status` of HTTP, `reason` as `Conflict`, its `message`, `retry_after` in seconds."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class ApiUnreachable(Exception):
    """There is no answer, or none that could be used. `reason` says why; it holds nothing of what was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Silent(ApiUnreachable):
    """A watch was given up since nothing came."""


class TooLarge(ApiUnreachable):
    """The answer, or an event, is larger than its limit."""


def route(*parts: str) -> str:
    """The path of a resource, as `route("apis", "openmcp.dev", "v1alpha1", "namespaces", ns, "mcppolicies")`.

    Raises `ValueError` for a part that could not be a group, a resource, a namespace or a name, so that no value can
    lead to another path.
    """
    for part in parts:
        if _PART.fullmatch(part) is None or ".." in part:
            raise ValueError(f"{part!r} cannot be part of a path of the API server")
    return "/" + "/".join(parts)


class Page(msgspec.Struct, frozen=True):
    """One page of a list; `next` is the token of the following one, or empty."""

    items: list[JsonObject]
    resource_version: str
    next: str


class Api:
    """Requests to one API server. `get` and the like return the JSON object that came and raise `ApiError` or
    `ApiUnreachable`; paths are made by `route`. Used from one event loop."""

    def __init__(self, credentials: Credentials, agent: str = "openmcp") -> None:
        """`agent` is the User-Agent."""
        self._credentials = credentials
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self.namespace: str = credentials.namespace
        """Our own namespace: that of the pod, or of the context."""

    @classmethod
    def in_cluster(cls, agent: str = "openmcp") -> "Api":
        """With the service account of this pod. Raises `NoCluster`."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise NoCluster("not in a pod: KUBERNETES_SERVICE_HOST is not set")
        return cls(InCluster(host, port), agent)

    @classmethod
    def from_kubeconfig(cls, path: str | None = None, context: str | None = None, agent: str = "openmcp") -> "Api":
        """As a kubeconfig says (default $KUBECONFIG, ~/.kube/config). Blocks; runs exec plugins. Raises `NoCluster`."""
        return cls(Kubeconfig(path, context), agent)

    @classmethod
    def find(cls, agent: str = "openmcp") -> "Api":
        """In a pod its service account, else the kubeconfig. Blocks. Raises `NoCluster`."""
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return cls.in_cluster(agent)
        try:
            return cls.from_kubeconfig(agent=agent)
        except NoCluster as error:  # a container of the image that is started by hand has neither
            raise NoCluster(f"not in a pod (KUBERNETES_SERVICE_HOST is not set), and {error}") from None

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> JsonObject:
        """One object."""
        return await self._json("GET", path, params)

    async def list_page(self, path: str, *, limit: int = 500, token: str = "", version: str = "") -> Page:
        """One page of a list of at most `limit` items: the first, or that of `token`.

        `version` is the resourceVersion to begin with: empty for the latest, "0" for whatever the server has at hand.
        """
        params = {"limit": str(limit)}
        if token:
            params["continue"] = token
        elif version:
            params["resourceVersion"] = version
        found = await self._json("GET", path, params)
        meta, items = found.get("metadata"), found.get("items")
        if not isinstance(meta, dict) or not isinstance(items, list | None):
            raise ApiUnreachable("the answer is not a list of objects")
        return Page(items or [], str(meta.get("resourceVersion") or ""), str(meta.get("continue") or ""))

    async def create(self, path: str, body: object, params: Mapping[str, str] | None = None) -> JsonObject:
        """POST to a collection, or to a subresource that makes something."""
        return await self._json("POST", path, params, body)

    async def replace(self, path: str, body: object, params: Mapping[str, str] | None = None) -> JsonObject:
        """PUT; `metadata.resourceVersion` in the body makes it conditional (`ApiError` 409)."""
        return await self._json("PUT", path, params, body)

    async def patch(
        self, path: str, body: object, *, content_type: str = MERGE_PATCH, subresource: str = ""
    ) -> JsonObject:
        """PATCH of an object, or of its `subresource` ("status"). A merge patch may hold a resourceVersion."""
        whole = f"{path}{route(subresource)}" if subresource else path
        return await self._json("PATCH", whole, None, body, content_type=content_type)

    async def delete(self, path: str, body: object = None) -> JsonObject:
        """DELETE; `body` may hold DeleteOptions (preconditions)."""
        return await self._json("DELETE", path, None, body)

    async def stream(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        silence: float = SILENCE,
        on_open: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer that goes on, without their ends; it ends where the server ends it.

        `on_open` is called when the server has agreed. Raises `Silent` after `silence` seconds without a byte,
        `ApiUnreachable` where a line is cut, `TooLarge` for an endless one. Close it
        (`contextlib.aclosing`) where it is left early.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(PATIENCE):
                    response = await stack.enter_async_context(self._request("GET", path, params))
            except TimeoutError:
                raise ApiUnreachable(f"no answer in {PATIENCE:g} s") from None
            on_open()
            buffer = bytearray()
            pieces = response.content.iter_any()
            while piece := await _within(silence, pieces):
                for line in _lines(buffer, piece):
                    yield line
            if buffer.strip():
                raise ApiUnreachable("the answer ended within a line")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _json(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object = None,
        *,
        content_type: str = "application/json",
    ) -> JsonObject:
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with (
                asyncio.timeout(PATIENCE),
                self._request(method, path, params or {}, data, content_type) as response,
            ):
                came = await _body(response, LIMIT)
            found = msgspec.json.decode(came)
        except TimeoutError:
            raise ApiUnreachable(f"no answer in {PATIENCE:g} s") from None
        except msgspec.DecodeError:
            raise ApiUnreachable("the answer is not JSON") from None
        if not isinstance(found, dict):
            raise ApiUnreachable("the answer is not a JSON object")
        return found

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> "AsyncIterator[aiohttp.ClientResponse]":
        try:
            access = await self._credentials.access()
        except NoCluster as error:
            raise ApiUnreachable(str(error)) from None
        session = await self._opened()
        import aiohttp

        try:
            async with session.request(
                method,
                access.server + path,
                params=dict(params),
                data=data,
                headers=self._headers(access, data, content_type),
                ssl=access.tls if access.tls is not None else True,
                server_hostname=access.server_name,
                proxy=access.proxy,
                allow_redirects=False,
            ) as response:
                if not 200 <= response.status < 300:
                    raise await _refusal(response)
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise
            raise ApiUnreachable(reason_of(error)) from None

    def _headers(self, access: Access, data: bytes | None, content_type: str) -> dict[str, str]:
        headers = {"user-agent": self._agent, "accept": "application/json", "accept-encoding": "identity"}
        if data is not None:
            headers["content-type"] = content_type
        if access.token:
            headers["authorization"] = f"Bearer {access.token}"
        return headers

    async def _opened(self) -> "aiohttp.ClientSession":
        async with self._opening:
            if self._session is None:
                await asyncio.to_thread(_import)
                import aiohttp

                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        limit=0, keepalive_timeout=30.0, resolver=aiohttp.ThreadedResolver()
                    ),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                )
            return self._session


def _import() -> None:
    import aiohttp  # noqa: F401 - loaded here, outside of the loop, and used there


async def _within(silence: float, pieces: AsyncIterator[bytes]) -> bytes:
    try:
        async with asyncio.timeout(silence):
            return await anext(pieces, b"")
    except TimeoutError:
        raise Silent(f"nothing came for {silence:g} s") from None


def _lines(buffer: bytearray, piece: bytes) -> list[bytes]:
    """What is complete of `buffer` with `piece`; the rest stays in `buffer`."""
    *complete, rest = piece.split(b"\n")
    if complete:
        complete[0] = bytes(buffer) + complete[0]
        buffer.clear()
    buffer += rest
    if len(buffer) > LINE or any(len(line) > LINE for line in complete):
        raise TooLarge(f"an event is larger than {LINE} bytes")
    return [line for line in complete if line.strip()]


async def _body(response: "aiohttp.ClientResponse", limit: int) -> bytes:
    try:
        return await body_of(response, limit)
    except AnswerTooLarge as error:
        raise TooLarge(error.reason) from None
    except FetchFailed as error:
        raise ApiUnreachable(error.reason) from None


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    """`Status` of Kubernetes, as far as it is of use."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


def refusal(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error that a `Status` in JSON says, or that a status of HTTP alone says where there is none."""
    try:
        said = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:  # also what has the wrong types: a proxy, a page
        said = _Status(message=body[:200].decode("utf-8", "replace"))
    wait = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    if wait is None and said.details is not None:
        wait = said.details.retry_after_seconds
    return ApiError(status or said.code, said.reason or "Unknown", said.message or f"HTTP {status}", wait)


async def _refusal(response: "aiohttp.ClientResponse") -> ApiError:
    try:
        async with asyncio.timeout(CONNECT):
            body = await _body(response, 256 * 1024)
    except (TimeoutError, ApiUnreachable):
        body = b""
    return refusal(response.status, body, response.headers.get("retry-after"))


__all__ = [
    "APPLY_PATCH",
    "JSON_PATCH",
    "MERGE_PATCH",
    "Api",
    "ApiError",
    "ApiUnreachable",
    "JsonObject",
    "NoCluster",
    "Page",
    "Silent",
    "TooLarge",
    "refusal",
    "route",
]
