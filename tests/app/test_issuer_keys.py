"""Keys of an issuer behind a URL, while agents call: who waits for them, how often they are asked for, and outages."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openmcp.identity import jwks
from tests.fakes import pki
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, hostile
from tests.support.raw import connect

ISSUER = "https://idp.acme.example/"
OLD, NEW = pki.jwt_key("old"), pki.jwt_key("new")


def token(key: pki.JwtKey, **claims: Any) -> str:
    return pki.mint_jwt(key, {"iss": ISSUER, "aud": "openmcp", "sub": "alice", **claims})


def serves(document: bytes, status: int = 200) -> Any:
    """An issuer that answers with this document."""

    async def handler(request: Request, reply: Reply) -> None:
        assert (request.method, request.path) == ("GET", "/mcp")
        assert request.header("authorization") is None
        await reply.respond(document, status, content_type="application/json")

    return handler


@pytest.fixture
async def issuer() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        running.handler = serves(pki.jwks(OLD, use="sig"))
        yield running


def settings(server: Hostile, issuer: Hostile) -> dict[str, Any]:
    """A configuration that knows agents by tokens of the issuer."""
    config = configuration(server.url)
    method = {"type": "jwt", "issuer": ISSUER, "audience": "openmcp", "jwks": {"url": issuer.url}}
    config["identity"]["agents"] = [method]
    return config


@pytest.fixture
async def sidecar(server: Hostile, issuer: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that asks the issuer."""
    async with gate(tmp_path, settings(server, issuer)) as running:
        yield running


async def calls(sidecar: Gate, given: str) -> int:
    """The status of a call with this token."""
    async with connect(sidecar.url, authorization=f"Bearer {given}") as agent:
        answer = await agent.ask(call())
        assert (answer.header("www-authenticate") is not None) is (answer.status == 401)
        return answer.status


async def issuers(sidecar: Gate) -> Any:
    """What operators are told of the issuers."""
    return json.loads((await sidecar.page("/readyz")).partition("\r\n\r\n")[2])["issuers"]


async def test_the_keys_are_asked_for_at_the_start(sidecar: Gate, issuer: Hostile) -> None:
    await issuer.received(1)


async def test_the_first_who_call_wait_for_the_keys(sidecar: Gate, issuer: Hostile) -> None:
    tokens = [token(OLD, jti=str(number)) for number in range(5)]
    assert await asyncio.gather(*(calls(sidecar, one) for one in tokens)) == [200] * 5
    assert await calls(sidecar, token(OLD, jti="later")) == 200
    assert len(issuer.requests) == 1
    text = sidecar.app.metrics.exposition().decode()
    assert f'openmcp_issuer_keys_fetches_total{{issuer="{ISSUER}",result="ok"}} 1.0' in text


async def test_keys_that_do_not_exist_are_not_asked_for_again_and_again(sidecar: Gate, issuer: Hostile) -> None:
    assert await calls(sidecar, token(OLD)) == 200
    for number in range(20):
        assert await calls(sidecar, token(pki.JwtKey(f"made-up-{number}", NEW.key, "ES256"))) == 401
    assert len(issuer.requests) == 1
    assert (await sidecar.records())[-1]["reason"] == "no key of its issuer has signed the token (kid)"


async def test_a_new_key_is_known_with_the_first_token_it_has_signed(
    sidecar: Gate, issuer: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "RETRY", 0.0)
    assert await calls(sidecar, token(OLD)) == 200
    issuer.handler = serves(pki.jwks(OLD, NEW, use="sig"))
    assert await calls(sidecar, token(NEW)) == 200
    issuer.handler = serves(pki.jwks(NEW, use="sig"))
    assert await calls(sidecar, token(pki.jwt_key("stranger"))) != 200
    monkeypatch.setattr(jwks, "RETRY", 10.0)
    assert await calls(sidecar, token(OLD)) == 401, "its key is gone, and with it what was remembered"
    assert await calls(sidecar, token(NEW)) == 200


@pytest.mark.parametrize("answer", [(b"", 500), (b"<html>", 200), (b"{}", 200), (b"x" * 300_000, 200)])
async def test_without_keys_a_token_cannot_be_judged(
    issuer: Hostile, server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: tuple[bytes, int]
) -> None:
    """503: a client that took this for a 401 would ask its user to log in again."""
    monkeypatch.setattr(jwks, "RETRY", 0.0)
    issuer.handler = serves(*answer)
    async with gate(tmp_path, settings(server, issuer)) as sidecar:
        assert await calls(sidecar, token(OLD)) == 503
        assert server.requests == []
        assert (await sidecar.records())[-1]["reason"] == "the keys of the token's issuer cannot be had"
        (state,) = (await issuers(sidecar)).values()
        assert state["keys"] == 0
        assert state["problem"]
        issuer.handler = serves(pki.jwks(OLD, use="sig"))
        async with asyncio.timeout(10):
            while await calls(sidecar, token(OLD)) == 503:
                pass  # it shared an attempt that was under way before the keys were there
        assert await calls(sidecar, token(OLD)) == 200
        assert await issuers(sidecar) == {ISSUER: {"keys": 1, "problem": None}}


async def test_an_issuer_that_says_nothing_holds_nobody_up(
    issuer: Hostile, server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", 0.1)

    async def silent(request: Request, reply: Reply) -> None:
        await reply.left()

    issuer.handler = silent
    async with gate(tmp_path, settings(server, issuer)) as sidecar:
        assert await asyncio.gather(calls(sidecar, token(OLD)), calls(sidecar, token(OLD, jti="other"))) == [503, 503]
        assert len(issuer.requests) == 1
        assert await calls(sidecar, token(OLD)) == 503, "at once: it was asked a moment ago"
        assert len(issuer.requests) == 1


async def test_a_reload_keeps_the_keys(sidecar: Gate, issuer: Hostile, server: Hostile) -> None:
    assert await calls(sidecar, token(OLD)) == 200
    config = settings(server, issuer)
    config["identity"]["agents"].append({"type": "none"})
    sidecar.reload(config)
    assert await calls(sidecar, token(OLD)) == 200
    assert len(issuer.requests) == 1
