"""A SPIFFE agent: a real gRPC server of the Workload API that mints true SVIDs, and does what a test tells it.

It runs in the event loop of the test. Whatever is changed by a method is sent to those who listen at once.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, Self

import grpc
import grpc.aio
from spiffe._proto import workload_pb2 as messages

from tests.fakes import pki

GATEWAY = "spiffe://example.org/gateway"


class FakeWorkloadApi:
    """Serves `ids` (the first is the default identity) at `address` (`unix:///path`, or `tcp://127.0.0.1:port`).

    Open to tests: `ca` and `jwt_key` sign; `ids`, `hints` (in the order of the IDs), `ttl` and `jwt_ttl` are used for
    what is minted next; `calls` counts calls by their method, `metadata` is that of the last one of each.
    """

    def __init__(
        self, address: str, ids: Sequence[str] = (GATEWAY,), *, ttl: float = 3600, ca: pki.Ca | None = None
    ) -> None:
        self.address = address
        self.ids = tuple(ids)
        self.ttl = ttl
        self.jwt_ttl = 300.0
        self.hints: Sequence[str] = ()
        self.trust_domain = self.ids[0].removeprefix("spiffe://").partition("/")[0]
        self.ca = ca or pki.Ca(self.trust_domain)
        self.jwt_key = pki.jwt_key()
        self.calls: Counter[str] = Counter()
        self.metadata: dict[str, dict[str, str | bytes]] = {}
        self.listeners = 0
        self._bundle = self.ca.der
        self._federated: dict[str, bytes] = {}
        self._jwt_federated: dict[str, bytes] = {}
        self._refusal: tuple[grpc.StatusCode, str] | None = None
        self._answer: messages.X509SVIDResponse | bytes | None = None
        self._jwt_answer: Callable[[str, str], str | None] = self.mint_jwt
        self._is_silent = False
        self._endings = 0
        self._version = 0
        self._minted: messages.X509SVIDResponse | None = None
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> Self:
        """Listen; again after `stop` too."""
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self._handlers(),))
        scheme, _, rest = self.address.partition("://")
        assert self._server.add_insecure_port(f"unix:{rest}" if scheme == "unix" else rest)
        await self._server.start()
        return self

    async def stop(self) -> None:
        """Be gone, as an agent that was killed: connections break, nobody listens."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def rotate(self) -> None:
        """Mint new SVIDs, by what is set now."""
        self._answer = None
        self._minted = None
        self._push()

    def rotate_ca(self, *, keep_old: bool) -> None:
        """Sign with a new CA from now on. The bundle holds both, or only the new one."""
        self.ca = pki.Ca(self.trust_domain)
        self._bundle = self._bundle + self.ca.der if keep_old else self.ca.der
        self.rotate()

    def federate(self, trust_domain: str, bundle: pki.Ca | bytes | None, jwks: bytes | None = None) -> None:
        """Give out the bundles of another trust domain: its CA, or raw bytes; None ends it. SVIDs stay as they are."""
        for bundles, data in ((self._federated, bundle), (self._jwt_federated, jwks)):
            bundles.pop(trust_domain, None)
            if data is not None:
                bundles[trust_domain] = data.der if isinstance(data, pki.Ca) else data
        self._push()

    def refuse(self, code: grpc.StatusCode, details: str = "no identity issued") -> None:
        """End all streams with this error, and answer every call with it."""
        self._refusal = (code, details)
        self._push()

    def deny(self) -> None:
        """Have no registration entry."""
        self.refuse(grpc.StatusCode.PERMISSION_DENIED)

    def allow(self) -> None:
        """End `refuse`, `deny` and `be_silent`."""
        self._refusal = None
        self._is_silent = False
        self._push()

    def be_silent(self) -> None:
        """Take calls and send nothing, as an agent that was stopped (SIGSTOP)."""
        self._is_silent = True
        self._push()

    def end_streams(self) -> None:
        """End all streams in order; they may be opened again."""
        self._endings += 1
        self._push()

    def answer(self, response: messages.X509SVIDResponse | bytes) -> None:
        """Send this, or these bytes, to those who ask for X.509-SVIDs, until the next `rotate`."""
        self._answer = response
        self._push()

    def answer_jwt(self, token: Callable[[str, str], str | None]) -> None:
        """Have the tokens made by a function of audience and ID; None leaves it out of the answer."""
        self._jwt_answer = token

    def response(self, leaves: Iterable[tuple[str, pki.Leaf]]) -> messages.X509SVIDResponse:
        """The message for these leaves, each with the ID that it is sent under."""
        svids = [
            messages.X509SVID(
                spiffe_id=id,
                x509_svid=b"".join(leaf.chain_der),
                x509_svid_key=leaf.key_der,
                bundle=self._bundle,
                hint=hint,
            )
            for (id, leaf), hint in zip_longest(leaves, self.hints, fillvalue="")
        ]
        return messages.X509SVIDResponse(svids=svids)

    def mint(self) -> messages.X509SVIDResponse:
        """A message with new SVIDs for all `ids`."""
        return self.response((id, self.ca.leaf(id, ttl=self.ttl)) for id in self.ids)

    def mint_jwt(self, audience: str, id: str, **claims: object) -> str:
        """A new JWT-SVID, with these claims too."""
        return pki.mint_jwt(self.jwt_key, {"sub": id, "aud": [audience], **claims}, ttl=self.jwt_ttl)

    def jwks(self) -> bytes:
        """The JWT bundle of our own trust domain."""
        return pki.jwks(self.jwt_key)

    def _handlers(self) -> grpc.GenericRpcHandler:
        streams = {
            "FetchX509SVID": grpc.unary_stream_rpc_method_handler(self._fetch_x509, response_serializer=_serialized),
            "FetchJWTBundles": grpc.unary_stream_rpc_method_handler(
                self._fetch_jwt_bundles, response_serializer=_serialized
            ),
        }
        one = grpc.unary_unary_rpc_method_handler(
            self._fetch_jwt_svid, messages.JWTSVIDRequest.FromString, response_serializer=_serialized
        )
        return grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {**streams, "FetchJWTSVID": one})

    async def _fetch_x509(self, _: bytes, context: Any) -> AsyncIterator[messages.X509SVIDResponse | bytes]:
        async for _ in self._changes("FetchX509SVID", context):
            yield self._x509()

    async def _fetch_jwt_bundles(self, _: bytes, context: Any) -> AsyncIterator[messages.JWTBundlesResponse]:
        async for _ in self._changes("FetchJWTBundles", context):
            bundles = {self.trust_domain: self.jwks(), **self._jwt_federated}
            yield messages.JWTBundlesResponse(bundles={f"spiffe://{name}": data for name, data in bundles.items()})

    async def _fetch_jwt_svid(self, request: messages.JWTSVIDRequest, context: Any) -> messages.JWTSVIDResponse:
        await self._admit("FetchJWTSVID", context)
        if self._is_silent:
            await asyncio.Event().wait()
        (audience,) = request.audience
        ours = [
            (id, hint) for id, hint in zip_longest(self.ids, self.hints, fillvalue="") if request.spiffe_id in ("", id)
        ]
        if not ours:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        made = [(id, hint, self._jwt_answer(audience, id)) for id, hint in ours]
        svids = [messages.JWTSVID(spiffe_id=id, svid=token, hint=hint) for id, hint, token in made if token is not None]
        return messages.JWTSVIDResponse(svids=svids)

    def _x509(self) -> messages.X509SVIDResponse | bytes:
        if isinstance(self._answer, bytes):
            return self._answer
        if self._minted is None:
            self._minted = self.mint()
        response = messages.X509SVIDResponse()
        response.CopyFrom(self._answer or self._minted)
        for name, data in self._federated.items():
            response.federated_bundles[f"spiffe://{name}"] = data
        return response

    def _push(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _admit(self, method: str, context: Any) -> None:
        self.calls[method] += 1
        metadata = self.metadata[method] = dict(context.invocation_metadata())
        if metadata.get("workload.spiffe.io") != "true":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        await self._refuse(context)

    async def _refuse(self, context: Any) -> None:
        if self._refusal is not None:
            await context.abort(*self._refusal)

    async def _changes(self, method: str, context: Any) -> AsyncIterator[None]:
        """Yields at once and after each change; ends with `end_streams`."""
        await self._admit(method, context)
        self.listeners += 1
        endings = self._endings
        try:
            while True:
                version = self._version
                if not self._is_silent:
                    yield
                while self._version == version:
                    await self._changed.wait()
                if self._endings != endings:
                    return
                await self._refuse(context)
        finally:
            self.listeners -= 1


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
