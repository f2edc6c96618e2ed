"""Keys of issuers: when they are asked for, how often, and what serves while they are not to be had."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from openmcp.identity import jwks
from openmcp.identity.fetch import FetchFailed
from openmcp.identity.jose import KeySet, UnknownKey
from openmcp.identity.jwks import FRESH, RETRY, STALE, FileKeys, KeysUnusable, UrlKeys
from tests.fakes import pki

URL = "https://idp.acme.example/jwks.json"
OLD, NEW = pki.jwks(pki.jwt_key("old"), use="sig"), pki.jwks(pki.jwt_key("new"), use="sig")


class Issuer:
    """What the URL answers, and the time, which passes when the test says so."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = OLD
        self.asked = 0
        self.now = 1000.0
        self.heard: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.ca: bytes | None = None

    async def get(self, url: str, *, ca: bytes | None, patience: float, limit: int) -> bytes:
        assert (url, patience, limit) == (URL, jwks.PATIENCE, jwks.LIMIT)
        self.asked += 1
        self.ca = ca
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def keys(self) -> UrlKeys:
        return UrlKeys(URL, lambda: b"CA", self.heard.append, clock=lambda: self.now, get=self.get)


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer()


def has(keys: KeySet | None, name: str) -> bool:
    """Whether a set has this key."""
    assert keys is not None
    try:
        return bool(keys.candidates(name, "ES256"))
    except UnknownKey:
        return False


async def test_keys_are_asked_for_when_they_are_needed_and_all_wait_for_one_answer(issuer):
    keys = issuer.keys()
    issuer.open.clear()
    assert keys.current() is None
    assert keys.may_refresh(), "it is under way"
    waiting = [asyncio.create_task(keys.refresh()) for _ in range(20)]
    await asyncio.sleep(0)
    issuer.open.set()
    await asyncio.gather(*waiting)
    assert has(keys.current(), "old")
    assert (issuer.asked, issuer.ca, keys.generation, issuer.heard) == (1, b"CA", 1, ["ok"])


async def test_one_who_gives_up_waiting_takes_the_answer_from_nobody(issuer):
    keys = issuer.keys()
    issuer.open.clear()
    gone, patient = asyncio.create_task(keys.refresh()), asyncio.create_task(keys.refresh())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    issuer.open.set()
    await patient
    assert has(keys.current(), "old")
    assert issuer.asked == 1


async def test_unknown_keys_do_not_make_us_ask_more_often_than_that(issuer):
    keys = issuer.keys()
    await keys.refresh()
    for _ in range(50):
        assert not keys.may_refresh()
        await keys.refresh()
    assert issuer.asked == 1
    issuer.now += RETRY
    issuer.answer = NEW
    assert keys.may_refresh()
    await keys.refresh()
    assert (issuer.asked, keys.generation) == (2, 2)
    assert has(keys.current(), "new")
    assert not has(keys.current(), "old")


async def test_keys_are_asked_for_again_without_anybody_waiting(issuer):
    keys = issuer.keys()
    await keys.refresh()
    issuer.now += FRESH - 1
    assert has(keys.current(), "old")
    assert issuer.asked == 1
    issuer.now += 1
    issuer.answer = NEW
    assert has(keys.current(), "old"), "the old ones serve meanwhile"
    await asyncio.sleep(0)
    assert issuer.asked == 2, "without `refresh`"
    await keys.refresh()
    assert has(keys.current(), "new")
    assert issuer.asked == 2


async def test_the_same_keys_again_are_no_change(issuer):
    keys = issuer.keys()
    await keys.refresh()
    issuer.now += FRESH
    keys.current()
    await keys.refresh()
    assert (issuer.asked, keys.generation) == (2, 1)


OUTAGES = [FetchFailed("HTTP 500"), b"<html>", b'{"keys": 1}', RuntimeError("something else")]


@pytest.mark.parametrize("outage", OUTAGES, ids=repr)
async def test_in_an_outage_the_last_keys_serve_up_to_a_bound(issuer, outage, caplog):
    caplog.set_level(logging.INFO, "openmcp.identity")
    keys = issuer.keys()
    await keys.refresh()
    began, issuer.answer = issuer.now, outage
    while issuer.now - began < STALE - FRESH:
        issuer.now += FRESH
        assert has(keys.current(), "old")
        await keys.refresh()
    assert issuer.heard == ["ok"] + ["error"] * (issuer.asked - 1)
    assert issuer.asked > 40
    assert (keys.generation, bool(keys.failing)) == (1, True)
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    issuer.now = began + STALE + 1
    assert keys.current() is None
    assert keys.generation == 2, "what was verified by them is forgotten"
    assert "too old" in caplog.messages[-1]
    issuer.now += RETRY
    issuer.answer = OLD
    await keys.refresh()
    assert has(keys.current(), "old")
    assert (keys.generation, keys.failing) == (3, "")
    assert "again" in caplog.messages[-1]


@pytest.mark.parametrize("document", [b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AA"}, 1, null]}'])
async def test_an_issuer_that_has_withdrawn_all_its_keys_has_none(issuer, document, caplog):
    keys = issuer.keys()
    await keys.refresh()
    issuer.now += RETRY
    issuer.answer = document
    await keys.refresh()
    assert len(keys.current()) == 0
    assert "no key that could be used" in caplog.messages[-1]


async def test_without_any_keys_it_is_tried_again_and_again(issuer):
    issuer.answer = FetchFailed("cannot connect")
    keys = issuer.keys()
    for attempt in range(1, 5):
        await keys.refresh()
        assert keys.current() is None
        assert not keys.may_refresh()
        assert issuer.asked == attempt
        issuer.now += RETRY
    assert keys.failing == "cannot connect"


async def test_after_the_end_nobody_is_asked_and_nobody_waits(issuer):
    keys = issuer.keys()
    issuer.open.clear()
    keys.current()
    await asyncio.sleep(0)
    keys.close()
    await keys.refresh()
    assert keys.current() is None
    issuer.now += 10 * FRESH
    keys.current()
    await asyncio.sleep(0)
    assert issuer.asked == 1


# Files


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def put(path: Path, document: bytes) -> None:
    """Replace a file as editors and kubelets do; with a time of its own."""
    other = path.with_suffix(".new")
    other.write_bytes(document)
    stamp = (path.stat().st_mtime_ns if path.exists() else 0) + 1_000_000_000
    os.utime(other, ns=(stamp, stamp))
    other.replace(path)


def test_a_file_is_read_again_when_it_changes(tmp_path, caplog):
    path, clock = tmp_path / "jwks.json", Clock()
    put(path, OLD)
    keys = FileKeys(str(path), clock=clock)
    assert has(keys.current(), "old")
    put(path, NEW)
    assert has(keys.current(), "old"), "not looked at within a second"
    clock.now = 1.0
    assert has(keys.current(), "new")
    assert keys.generation == 2
    clock.now = 2.0
    assert has(keys.current(), "new")
    assert keys.generation == 2


@pytest.mark.parametrize("broken", [b"", b"{}", NEW + b" " * jwks.LIMIT, None])
def test_a_file_that_cannot_be_used_leaves_the_last_good_keys(tmp_path, caplog, broken):
    path, clock = tmp_path / "jwks.json", Clock()
    put(path, OLD)
    keys = FileKeys(str(path), clock=clock)
    if broken is None:
        path.unlink()
    else:
        put(path, broken)
    for second in (1, 2, 3):
        clock.now = float(second)
        assert has(keys.current(), "old")
    assert len(caplog.records) == 1, "said once"
    assert keys.failing
    put(path, NEW)
    clock.now = 4.0
    assert has(keys.current(), "new")
    assert (keys.failing, keys.generation) == ("", 2)


def test_a_file_that_was_out_of_reach_and_is_back_is_the_same(tmp_path):
    folder, clock = tmp_path / "mounted", Clock()
    folder.mkdir()
    put(folder / "jwks.json", OLD)
    keys = FileKeys(str(folder / "jwks.json"), clock=clock)
    folder.rename(tmp_path / "away")
    clock.now = 1.0
    assert has(keys.current(), "old")
    assert keys.failing == "No such file or directory"
    (tmp_path / "away").rename(folder)
    clock.now = 2.0
    assert has(keys.current(), "old")
    assert (keys.failing, keys.generation) == ("", 1)


@pytest.mark.parametrize(("document", "why"), [(None, "No such file"), (b"{}", "not a JWK set"), (b"\xff", "not JSON")])
def test_a_file_that_cannot_be_used_at_the_start(tmp_path, document, why):
    path = tmp_path / "jwks.json"
    if document is not None:
        path.write_bytes(document)
    with pytest.raises(KeysUnusable, match=why):
        FileKeys(str(path))


async def test_a_file_is_never_waited_for(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(OLD)
    keys = FileKeys(str(path))
    assert not keys.may_refresh()
    await keys.refresh()
    assert keys.generation == 1
