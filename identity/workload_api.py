"""The Workload API as plain values (SPIFFE Workload API, 3 to 6); the one door to `grpc` and `spiffe`.

Imported only where SPIFFE is used. A call that breaks is a `CallFailed`, whatever broke it; nothing here repeats a
call, keeps a value or logs.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

# Before gRPC is loaded, which reads them then. Its handlers at fork() make one in a hundred child processes of uvloop
# crash, and its own messages on standard error are neither JSON nor about anything that CallFailed does not say.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from openmcp.identity import endpoint
from openmcp.identity.material import CallFailed, FailureKind, JwtSvid, JwtUpdate, X509Update
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.identity.updates import Malformed, RawSvid, jwt_svid, jwt_update, x509_update

if TYPE_CHECKING:
    from spiffe._proto import workload_pb2 as messages
else:

    def _generated():
        """py-spiffe's generated messages without the package around them, which takes 5 MiB: we parse ourselves."""
        package = importlib.util.find_spec("spiffe")
        path = Path(package.submodule_search_locations[0], "_proto", "workload_pb2.py")
        spec = importlib.util.spec_from_file_location(f"{__name__}_messages", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    messages = _generated()

PATIENCE: Final = 3.0
"""Seconds that a JWT-SVID may take; an agent that is just starting again is waited for."""
_SERVICE: Final = "/SpiffeWorkloadAPI/"
_METADATA: Final = (("workload.spiffe.io", "true"),)
"""Agents refuse what comes without it: a request that somebody was tricked into sending (Workload Endpoint, 3)."""
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_LONGEST_DETAIL: Final = 200

Update = TypeVar("Update")


def target(address: str) -> str:
    """The address in the words of gRPC. Raises ValueError for one that is not valid, with the reason."""
    if fault := endpoint.fault(address):
        raise ValueError(fault)
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return f"unix:{rest}"
    return f"ipv6:{rest}" if rest.startswith("[") else f"ipv4:{rest}"


class Stream(Generic[Update]):
    """One open stream. Every message of it is complete in itself."""

    def __init__(self, call: Any, parse: Callable[[bytes], Update]) -> None:
        self._call = call
        self._parse = parse

    async def read(self) -> Update | None:
        """The next update; None where the agent ended the stream in order. Raises `CallFailed`."""
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        return None if data is grpc.aio.EOF else _read(self._parse, data)

    def close(self) -> None:
        """End it; it does not matter whether it has ended."""
        self._call.cancel()


class WorkloadApi:
    """A channel to the agent. Made in a running event loop; `clock` gives Unix seconds."""

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Requests and answers stay bytes: gRPC would log what it cannot read, and go on with None.
        self._channel = grpc.aio.insecure_channel(target(address), options=_OPTIONS)
        self._x509 = self._channel.unary_stream(f"{_SERVICE}FetchX509SVID")
        self._jwt_bundles = self._channel.unary_stream(f"{_SERVICE}FetchJWTBundles")
        self._jwt_svid = self._channel.unary_unary(f"{_SERVICE}FetchJWTSVID")

    def x509(self) -> Stream[X509Update]:
        """Open FetchX509SVID."""
        return Stream(self._x509(b"", metadata=_METADATA), self._read_x509)

    def jwt_bundles(self) -> Stream[JwtUpdate]:
        """Open FetchJWTBundles."""
        return Stream(self._jwt_bundles(b"", metadata=_METADATA), _read_jwt_bundles)

    async def jwt_svid(self, audience: str, id: SpiffeId, hint: str | None = None) -> JwtSvid:
        """Have a JWT-SVID of `id` for one audience; of several the one with this `hint`. Raises `CallFailed`."""
        request = messages.JWTSVIDRequest(audience=[audience], spiffe_id=str(id)).SerializeToString()
        try:
            data = await self._jwt_svid(request, metadata=_METADATA, timeout=PATIENCE, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None

        def parse(data: bytes) -> JwtSvid:
            svids = messages.JWTSVIDResponse.FromString(data).svids
            if not svids:
                raise Malformed("no JWT-SVID in the answer")
            chosen = next((one for one in svids if one.hint == hint), svids[0])
            return jwt_svid(chosen.svid, id, audience, self._clock())

        return _read(parse, data)

    async def close(self) -> None:
        """End everything that is open."""
        await self._channel.close()

    def _read_x509(self, data: bytes) -> X509Update:
        message = messages.X509SVIDResponse.FromString(data)
        if not message.svids:
            raise CallFailed("denied", "an update without any SVID")
        svids = [
            RawSvid(one.spiffe_id, one.x509_svid, one.x509_svid_key, one.bundle, one.hint) for one in message.svids
        ]
        return x509_update(svids, message.federated_bundles, self._clock())


def _read_jwt_bundles(data: bytes) -> JwtUpdate:
    bundles: Mapping[str, bytes] = messages.JWTBundlesResponse.FromString(data).bundles
    return jwt_update(bundles)


def _read(parse: Callable[[bytes], Update], data: bytes) -> Update:
    try:
        return parse(data)
    except Malformed as fault:
        raise CallFailed("malformed", str(fault)) from None
    except DecodeError:
        raise CallFailed("malformed", "a message that cannot be read") from None


_KINDS: Final[Mapping[grpc.StatusCode, FailureKind]] = {
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "unreachable",
    grpc.StatusCode.CANCELLED: "unreachable",
}


def _failed(error: grpc.aio.AioRpcError) -> CallFailed:
    """In few words: of gRPC's account of an attempt to connect, the cause alone, which stands at its end."""
    code = error.code()
    detail = (error.details() or "").rpartition(" error: ")[2][:_LONGEST_DETAIL]
    return CallFailed(_KINDS.get(code, "refused"), f"{code.name}: {detail}" if detail else code.name)
