"""The source of our identity: what it holds, what it says when something is missing, and that it always comes back."""

import asyncio
import logging
import re
import time
from pathlib import Path

import grpc
import pytest

from openmcp.identity import follow, source
from openmcp.identity.material import NoIdentity, SvidChoice
from openmcp.identity.workload_api import WorkloadApi
from tests.fakes import pki
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.identity.following import Watched, until

OTHER = "spiffe://example.org/other"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait less between attempts; how long it is in truth is said in `test_after_an_outage`."""
    monkeypatch.setattr(follow, "LONGEST", 0.2)


def said(caplog, level=logging.INFO) -> list[str]:
    """What the log says, from `level` on, without what stands in brackets."""
    records = [record for record in caplog.records if record.name == "openmcp.identity" and record.levelno >= level]
    return [record.getMessage().partition(" (")[0] for record in records]


async def test_the_first_update(agent):
    agent.federate("other.example", other := pki.Ca("other.example"))
    async with Watched(agent.address) as watched:
        assert (watched.report(), watched.generation) == ({"state": "waiting", "trustDomains": []}, 0)
        with pytest.raises(NoIdentity, match=f"no SVID yet: {agent.address} has not answered"):
            watched.own()
        await watched.change()
        own = watched.own()
        assert (str(own.id), watched.generation, watched.stats.rotations) == (GATEWAY, 1, 0)
        assert 3500 < own.expires - time.time() <= 3600
        assert watched.material.svids == (own,)
        assert watched.bundles == {
            "example.org": frozenset({agent.ca.der}),
            "other.example": frozenset({other.der}),
        }
        assert watched.report() == {
            "state": "ok",
            "spiffeId": GATEWAY,
            "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(own.expires)),
            "trustDomains": ["example.org", "other.example"],
        }


async def test_a_rotation_replaces_the_svid(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        first = watched.own()
        agent.rotate()
        await watched.change()
        assert watched.own() != first
        assert (watched.own().id, watched.generation, watched.stats.rotations) == (first.id, 2, 1)
    assert watched.own() != first, "what was received stays after the end"


async def test_a_new_ca_comes_and_the_old_one_goes(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        old = agent.ca.der
        agent.rotate_ca(keep_old=True)
        await watched.change()
        assert watched.bundles == {"example.org": frozenset({old, agent.ca.der})}
        agent.rotate_ca(keep_old=False)
        await watched.change()
        assert watched.bundles == {"example.org": frozenset({agent.ca.der})}


async def test_the_end_of_a_federation_is_a_change_but_no_rotation(agent):
    agent.federate("other.example", pki.Ca("other.example"))
    async with Watched(agent.address) as watched:
        await watched.change()
        agent.federate("other.example", None)
        await watched.change()
        assert (list(watched.bundles), watched.generation, watched.stats.rotations) == (["example.org"], 2, 0)


async def test_the_same_update_again_changes_nothing(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        agent.end_streams()
        await until(lambda: watched.stats.updates == 2)
        assert (watched.generation, watched.stats.rotations, agent.calls["FetchX509SVID"]) == (1, 0, 2)
        assert sum(watched.stats.failures.values()) == 0, "a stream that ends in order is no failure"


async def test_without_an_entry_it_says_so_once_and_waits(agent, caplog):
    caplog.set_level(logging.INFO)
    agent.deny()
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["denied"] >= 3)
        assert watched.report()["state"] == "no registration entry"
        with pytest.raises(NoIdentity, match="no registration entry fits this process"):
            watched.own()
        agent.allow()
        await watched.change()
        assert watched.report()["state"] == "ok"
    assert said(caplog) == [
        "no registration entry fits this process; create one, with the selectors of this process",
        f"{agent.address} brings updates again",
        f"our SVID is {GATEWAY}",
    ]


async def test_without_an_agent_it_says_so_once_and_waits(address, caplog):
    caplog.set_level(logging.INFO)
    async with Watched(address) as watched:
        watched.want_jwt_bundles()
        await until(lambda: watched.stats.failures["unreachable"] >= 5)
        assert watched.report()["state"] == "agent not reachable"
        with pytest.raises(
            NoIdentity, match=rf"cannot be reached at {address}.*UNAVAILABLE: No such file or directory"
        ):
            watched.own()
        async with FakeWorkloadApi(address):
            await watched.change()
            await until(lambda: watched.jwt_generation)
    assert said(caplog)[:1] == [
        f"the Workload API cannot be reached at {address}; is the agent running, and may we open the socket?"
    ]
    assert sorted(said(caplog)[1:3]) == [f"our SVID is {GATEWAY}", f"{address} brings updates again"]


async def test_after_an_outage_the_svid_is_still_there_and_the_next_comes_in_seconds(address, monkeypatch):
    monkeypatch.undo()
    agent = await FakeWorkloadApi(address).start()
    async with Watched(address) as watched:
        await watched.change()
        took = [2 * follow.LONGEST]
        while took[-1] >= 2 * follow.LONGEST:
            assert len(took) < 4, "not because this machine has stalled"
            before, failures = watched.own(), watched.stats.failures["unreachable"]
            await agent.stop()
            await until(lambda failures=failures: watched.stats.failures["unreachable"] >= failures + 5)
            assert watched.own() == before
            report = watched.report()
            assert (report["state"], "cannot be reached" in report["reason"]) == ("ok", True)
            agent.rotate()
            began = time.monotonic()
            await agent.start()
            await watched.change()
            took.append(time.monotonic() - began)
            assert (watched.own() != before, watched.stats.rotations) == (True, len(took) - 1)
            assert "reason" not in watched.report()
    await agent.stop()


async def test_a_malformed_update_is_refused_as_a_whole(agent, caplog):
    async with Watched(agent.address) as watched:
        await watched.change()
        before = watched.material
        bad = agent.response([(GATEWAY, agent.ca.leaf(OTHER))])
        bad.svids[0].bundle = pki.Ca("example.org").der
        agent.answer(bad)
        await until(lambda: watched.stats.failures["malformed"] >= 2)
        assert (watched.material, watched.generation, watched.report()["state"]) == (before, 1, "ok")
        assert "has a certificate with another ID" in watched.report()["reason"]
        agent.rotate()
        await watched.change()
        assert (watched.stats.rotations, "reason" in watched.report()) == (1, False)
    assert said(caplog, logging.ERROR) == ["the Workload API sent something that is not good"]


async def test_a_first_update_that_is_malformed_leaves_us_waiting(agent):
    agent.answer(agent.response([(GATEWAY, agent.ca.leaf(OTHER))]))
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["malformed"])
        assert (watched.report()["state"], watched.material) == ("waiting", None)
        with pytest.raises(NoIdentity, match="sent something that is not good .*another ID"):
            watched.own()


async def test_a_message_that_is_none_is_malformed(agent):
    agent.answer(b"\xff")
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["malformed"])
        assert watched.report()["reason"].endswith("(a message that cannot be read)")


async def test_an_update_without_svids_is_a_denial(agent):
    agent.ids = ()
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["denied"])
        assert watched.report()["state"] == "no registration entry"


async def test_a_bad_federated_bundle_costs_that_bundle_only(agent, caplog):
    agent.federate("good.example", good := pki.Ca("good.example"))
    agent.federate("bad.example", b"x")
    async with Watched(agent.address) as watched:
        await watched.change()
        agent.rotate()
        await watched.change()
        assert watched.bundles == {"example.org": {agent.ca.der}, "good.example": {good.der}}
        reason = "the bundle of bad.example is not DER"
        assert watched.report()["badBundles"] == {"spiffe://bad.example": reason}
        assert (watched.report()["state"], watched.stats.bad_bundles) == ("ok", 2)
        agent.federate("bad.example", pki.Ca("bad.example"))
        await watched.change()
        assert "badBundles" not in watched.report()
    assert said(caplog, logging.WARNING) == [f"a bundle is left out, its trust domain is not trusted: {reason}"]


async def test_another_error_is_told_and_retried(agent, caplog):
    agent.refuse(grpc.StatusCode.INTERNAL, "out of order")
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["refused"] >= 2)
        assert watched.report() == {
            "state": "waiting",
            "trustDomains": [],
            "reason": "the Workload API refused (INTERNAL: out of order)",
        }
        agent.allow()
        await watched.change()
    assert said(caplog, logging.ERROR) == ["the Workload API refused"]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [({}, GATEWAY), ({"hint": "external"}, OTHER), ({"id": OTHER}, OTHER), ({"hint": "internal"}, GATEWAY)],
)
async def test_which_of_several_svids_is_ours(agent, choice, chosen):
    agent.ids = (GATEWAY, OTHER, "spiffe://example.org/third")
    agent.hints = ("internal", "external", "external")
    async with Watched(agent.address, **choice) as watched:
        await watched.change()
        assert (str(watched.own().id), len(watched.material.svids)) == (chosen, 3)
        assert '"sub":"' + chosen in pki.payload(await watched.jwt_svid("tools"))


async def test_an_svid_that_was_chosen_and_does_not_come(agent, caplog):
    async with Watched(agent.address, hint="external") as watched:
        await watched.change()
        reason = "none of the 1 SVIDs we get has the hint 'external'; compare the registration entries"
        with pytest.raises(NoIdentity) as refused:
            watched.own()
        assert (str(refused.value), watched.report()["reason"]) == (reason, reason)
        assert watched.report()["state"] == "no registration entry"
        agent.rotate()
        await watched.change()
        agent.hints = ("external",)
        agent.rotate()
        await watched.change()
        assert str(watched.own().id) == GATEWAY
    assert said(caplog, logging.WARNING) == [f"we have no SVID: {reason}"]


async def test_the_clock_raises_one_warning_and_one_error(agent, caplog):
    caplog.set_level(logging.INFO)
    async with Watched(agent.address) as watched:
        await watched.change()
        await agent.stop()
        for watched.ahead in (2600, 2710, 3000, 3601, 4000):
            watched.look()
        assert watched.report()["state"] == "expired"
        with pytest.raises(NoIdentity, match="our SVID has expired"):
            watched.own()
        watched.ahead = 0
        agent.rotate()
        await agent.start()
        await watched.change()
    of_the_clock = [line for line in said(caplog, logging.WARNING) if line.startswith("our SVID")]
    assert [re.sub(r"\b8[0-9]{2}\b", "800", line) for line in of_the_clock] == [
        "our SVID ends in 800 seconds and was not renewed",
        "our SVID has expired: no connection is made with it and nobody is sent it",
    ]


async def test_an_svid_that_is_late_makes_it_ask_again(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        watched.ahead = 2600
        watched.look()
        watched.ahead = 2710
        watched.look()
        watched.look()
        await until(lambda: agent.calls["FetchX509SVID"] == 2 and watched.stats.updates == 2)
        watched.look()
        agent.federate("other.example", pki.Ca("other.example"))
        await watched.change()
        assert agent.calls["FetchX509SVID"] == 2, "not again so soon"
        watched.ahead += source.REOPEN
        watched.look()
        await until(lambda: watched.stats.updates == 4)
        assert (agent.calls["FetchX509SVID"], sum(watched.stats.failures.values())) == (3, 0)


async def test_an_agent_that_takes_calls_and_never_answers(agent, monkeypatch):
    monkeypatch.setattr(follow, "FIRST_ANSWER", 0.05)
    agent.be_silent()
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["unreachable"] >= 2)
        assert watched.report()["state"] == "agent not reachable"
        monkeypatch.setattr(follow, "FIRST_ANSWER", 60.0)
        agent.allow()
        await watched.change()


async def test_what_was_taken_from_us_is_not_used_any_more(agent, caplog):
    async with Watched(agent.address) as watched:
        watched.want_jwt_bundles()
        await watched.change()
        await watched.jwt_svid("tools")
        await until(lambda: watched.jwt_generation)
        own = watched.own()
        agent.deny()
        await until(lambda: watched.stats.failures["denied"] >= 2)
        watched.look()
        assert watched.own() == own, "a denial or two may mean that the agent cannot tell who we are"
        watched.ahead = source.GRACE + 1
        watched.look()
        await watched.change()
        assert (watched.report()["state"], watched.generation) == ("no registration entry", 2)
        assert (watched.bundles, watched.jwt_bundles) == ({}, {})
        assert watched.cached_jwt_svid("tools") is None
        with pytest.raises(NoIdentity, match="no registration entry fits"):
            watched.own()
        agent.allow()
        await watched.change()
        await until(lambda: watched.jwt_bundles)
        assert watched.own() == own


async def test_denials_with_an_outage_between_them_count_anew(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        agent.deny()
        await until(lambda: watched.stats.failures["denied"])
        await agent.stop()
        await until(lambda: watched.stats.failures["unreachable"])
        watched.ahead = source.GRACE + 1
        await agent.start()
        denied = watched.stats.failures["denied"]
        await until(lambda: watched.stats.failures["denied"] > denied)
        watched.look()
        assert str(watched.own().id) == GATEWAY


async def test_one_who_fails_to_follow_does_not_stop_the_others(agent, caplog):
    def fail() -> None:
        raise ValueError("on purpose")

    async with Watched(agent.address) as watched:
        heard: list[int] = []
        ends = [watched.subscribe(fail), watched.subscribe(lambda: heard.append(watched.generation))]
        await until(lambda: heard == [1])
        for end in ends:
            end()
        agent.rotate()
        await until(lambda: watched.generation == 2)
        assert heard == [1]
    assert said(caplog, logging.ERROR) == ["what has to follow an update of our SVID failed"]


async def test_jwt_bundles_are_followed_where_they_are_wanted(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        assert (watched.jwt_bundles, agent.calls["FetchJWTBundles"]) == ({}, 0)
        watched.want_jwt_bundles()
        watched.want_jwt_bundles()
        await until(lambda: watched.jwt_generation == 1)
        assert watched.jwt_bundles == {"example.org": agent.jwks()}
        agent.federate("other.example", None, jwks=pki.jwks(pki.jwt_key()))
        await until(lambda: watched.jwt_generation == 2)
        agent.federate("bad.example", None, jwks=b"x")
        await until(lambda: watched.stats.jwt_updates == 3)
        assert (sorted(watched.jwt_bundles), watched.jwt_generation) == (["example.org", "other.example"], 2)
        assert watched.report()["badBundles"] == {"spiffe://bad.example": "no JWKS document"}
        assert agent.calls["FetchJWTBundles"] == 1


async def test_why_there_are_no_jwt_bundles_is_told_beside_an_svid_that_is_good(agent, monkeypatch):
    async with Watched(agent.address) as watched:
        await watched.change()
        monkeypatch.setattr(agent, "jwks", lambda: b"x")
        watched.want_jwt_bundles()
        await until(lambda: watched.stats.failures["malformed"] > 0)
        report = watched.report()
        assert (report["state"], report["reason"]) == (
            "ok",
            "JWT bundles: the Workload API sent something that is not good (no good JWT bundle in it)",
        )
        monkeypatch.undo()
        await until(lambda: watched.jwt_generation == 1)
        assert "reason" not in watched.report()


async def test_a_jwt_svid_is_fetched_once_and_kept(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        tokens = await asyncio.gather(*(watched.jwt_svid("tools") for _ in range(5)))
        assert (len(set(tokens)), agent.calls["FetchJWTSVID"]) == (1, 1)
        assert watched.cached_jwt_svid("tools") == tokens[0]
        agent.rotate()
        await watched.change()
        assert watched.cached_jwt_svid("tools") == tokens[0], "a new X.509-SVID of the same ID changes nothing"
        watched.forget_jwt_svid("tools")
        assert watched.cached_jwt_svid("tools") is None


async def test_with_another_id_come_other_tokens(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        await watched.jwt_svid("tools")
        agent.ids = (OTHER,)
        agent.rotate()
        await watched.change()
        assert watched.cached_jwt_svid("tools") is None
        assert '"sub":"' + OTHER in pki.payload(await watched.jwt_svid("tools"))


async def test_no_jwt_svid_without_an_identity(agent):
    agent.deny()
    async with Watched(agent.address) as watched:
        await until(lambda: watched.stats.failures["denied"])
        with pytest.raises(NoIdentity, match="no registration entry fits this process"):
            await watched.jwt_svid("tools")
    assert agent.calls["FetchJWTSVID"] == 0


async def test_a_jwt_svid_of_somebody_else_is_not_used(agent):
    async with Watched(agent.address) as watched:
        await watched.change()
        agent.answer_jwt(lambda audience, id: pki.mint_jwt(agent.jwt_key, {"sub": OTHER, "aud": audience}))
        with pytest.raises(NoIdentity, match=f"no JWT-SVID: .*is not that of {GATEWAY}"):
            await watched.jwt_svid("tools")
        assert watched.stats.failures["malformed"] == 1


async def test_the_channel_is_closed_at_the_end(agent):
    closed: list[str] = []

    class Api(WorkloadApi):
        async def close(self) -> None:
            await super().close()
            closed.append("once")

    followed = source.SvidSource(agent.address, SvidChoice(), connect=Api)
    followed.start()
    await followed.stop()
    await followed.stop()
    assert closed == ["once"]


async def test_nothing_is_left_behind(agent, caplog):
    watched = Watched(agent.address)
    await watched.stop()
    watched.want_jwt_bundles()
    watched.start()
    await watched.change()
    await until(lambda: watched.jwt_generation)
    agent.be_silent()
    waiting = asyncio.create_task(watched.jwt_svid("tools"))
    await until(lambda: agent.calls["FetchJWTSVID"])
    await watched.stop()
    files = [Path(task.get_coro().cr_code.co_filename) for task in asyncio.all_tasks()]
    assert [file.name for file in files if file.parent == Path(source.__file__).parent] == []
    with pytest.raises(NoIdentity, match="our identity is changing"):
        await waiting
    await until(lambda: agent.listeners == 0)
    with pytest.raises(NoIdentity, match="the Workload API is not followed"):
        await watched.jwt_svid("tools")
    assert said(caplog, logging.WARNING) == []
