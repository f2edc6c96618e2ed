"""Objects are followed through everything that befalls a watch, and what was known is never lost."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from openmcp.config.kubernetes import reflector as module
from openmcp.config.kubernetes.api import Api
from openmcp.config.kubernetes.reflector import Reflector
from tests.fakes.kubernetes_api import Answer, KubernetesApi, Reach, kubernetes_api

PATH = "/apis/openmcp.dev/v1alpha1/namespaces/test/mcppolicies"
SPEC = {"servers": ["tickets"]}


class Followed:
    """A reflector that runs, and what it said."""

    def __init__(self, api: KubernetesApi) -> None:
        self.server = api
        self.api = Api(Reach(api))
        self.pauses: list[float] = []
        self.changes = 0
        self.heard = asyncio.Event()
        self.reflector = Reflector(self.api, "MCPPolicy", "test", self._notify, sleep=self._sleep)

    def _notify(self, changed: bool) -> None:
        self.changes += changed
        self.heard.set()

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.heard.set()
        await asyncio.sleep(min(seconds, 0.01))

    async def until(self, *names: str) -> None:
        """Wait until just these objects are known."""
        await self.when(lambda: sorted(one.name for one in self.reflector.objects.values()) == sorted(names))

    async def when(self, found) -> None:
        async with asyncio.timeout(10):
            while not found():
                self.heard.clear()
                await self.heard.wait()

    async def watching(self) -> None:
        """Wait until a watch is open."""
        await self.server.until(lambda: self.server.watching == 1)


@asynccontextmanager
async def following(*names: str) -> AsyncIterator[Followed]:
    async with kubernetes_api() as server:
        for name in names:
            server.put("MCPPolicy", name, SPEC)
        followed = Followed(server)
        task = asyncio.create_task(followed.reflector.run())
        try:
            yield followed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await followed.api.close()


def lists(server: KubernetesApi) -> int:
    return sum(not asked.watches and "continue" not in asked.query for asked in server.asked)


async def test_list_then_watch():
    async with following("a", "b") as followed:
        await followed.until("a", "b")
        await followed.watching()
        server = followed.server
        server.put("MCPPolicy", "c", SPEC)
        await followed.until("a", "b", "c")
        server.remove("MCPPolicy", "a")
        await followed.until("b", "c")
        before = followed.changes
        server.touch("MCPPolicy", "b", {"conditions": []})
        server.put("MCPPolicy", "b", {"servers": ["other"]})
        await followed.when(lambda: followed.changes > before)
        assert followed.changes == before + 1, "another status is no change"
        specs = {one.name: (one.spec, one.generation) for one in followed.reflector.objects.values()}
        assert specs == {"b": (b'{"servers":["other"]}', 2), "c": (b'{"servers":["tickets"]}', 1)}
        asked = server.asked[0]
        assert (asked.path, asked.query, asked.headers["authorization"]) == (PATH, {"limit": "500"}, "Bearer a-token")
        watch = server.asked[-1].query
        assert watch["allowWatchBookmarks"] == "true"
        assert watch["resourceVersion"] == "102"
        assert 240 <= int(watch["timeoutSeconds"]) <= 290
        assert (lists(server), followed.reflector.problem, dict(followed.reflector.errors)) == (1, "", {})


async def test_an_empty_namespace_is_known_too():
    async with following() as followed:
        await followed.when(lambda: followed.reflector.synced)
        assert followed.changes == 1


async def test_pages(monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    names = [f"p{number}" for number in range(5)]
    async with following(*names) as followed:
        await followed.until(*names)
        assert [asked.query.get("continue") for asked in followed.server.asked[:3]] == [None, "2.105", "4.105"]


async def test_pages_that_are_forgotten_on_the_way_are_listed_anew(monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    async with kubernetes_api() as server:
        for name in ("a", "b", "c"):
            server.put("MCPPolicy", name, SPEC)
        followed = Followed(server)
        first, list_page = True, followed.api.list_page

        async def pages(path, **given):
            nonlocal first
            if given["token"] and first:
                first = False
                server.put("MCPPolicy", "aa", SPEC)
                server.forget()
            return await list_page(path, **given)

        monkeypatch.setattr(followed.api, "list_page", pages)
        task = asyncio.create_task(followed.reflector.run())
        await followed.until("a", "aa", "b", "c")
        assert (dict(followed.reflector.errors), followed.changes) == ({"expired": 1}, 1)
        task.cancel()
        await followed.api.close()


@pytest.mark.parametrize("as_event", [False, True], ids=["as an answer", "as an event"])
async def test_a_history_that_is_gone_is_listed_anew_and_swapped_at_once(as_event):
    async with following("a", "b") as followed:
        await followed.until("a", "b")
        await followed.watching()
        server = followed.server
        server.expired_as_event = as_event
        server.silent = True  # what follows is not heard of
        server.remove("MCPPolicy", "a")
        server.put("MCPPolicy", "c", SPEC)
        server.forget()
        server.silent = False
        before = followed.changes
        server.cut()
        await followed.until("b", "c")
        assert (followed.changes, followed.reflector.errors["expired"], lists(server)) == (before + 1, 1, 2)


async def test_a_cut_watch_goes_on_where_it_was():
    async with following("a") as followed:
        await followed.watching()
        server = followed.server
        server.put("MCPPolicy", "b", SPEC)
        await followed.until("a", "b")
        server.cut()
        await server.until(lambda: server.watching == 0)
        server.put("MCPPolicy", "c", SPEC)
        await followed.until("a", "b", "c")
        assert (lists(server), server.asked[-1].query["resourceVersion"]) == (1, "102")
        assert followed.reflector.errors == {"unreachable": 1}


async def test_bookmarks_move_the_version_on():
    async with following("a") as followed:
        await followed.watching()
        server = followed.server
        server.put("MCPPolicy", "elsewhere", SPEC, namespace="other")
        server.bookmark()
        server.put("MCPPolicy", "b", SPEC)
        await followed.until("a", "b")
        server.remove("MCPPolicy", "elsewhere", namespace="other")
        heard = followed.reflector.heard
        server.bookmark()
        await followed.when(lambda: followed.reflector.heard != heard)
        server.forget()
        server.cut()
        await server.until(lambda: sum(asked.watches for asked in server.asked) == 2 and server.watching == 1)
        assert (lists(server), server.asked[-1].query["resourceVersion"]) == (1, "104")


async def test_a_silent_watch_is_given_up_and_taken_up_anew(monkeypatch):
    async with kubernetes_api() as server:
        server.put("MCPPolicy", "a", SPEC)
        followed = Followed(server)
        stream = followed.api.stream
        monkeypatch.setattr(followed.api, "stream", functools.partial(stream, silence=0.05))
        task = asyncio.create_task(followed.reflector.run())
        await followed.when(lambda: followed.reflector.errors["silent"] == 2)
        monkeypatch.setattr(followed.api, "stream", stream)
        server.put("MCPPolicy", "b", SPEC)
        await followed.until("a", "b")
        assert (lists(server), set(followed.reflector.errors)) == (1, {"silent"})
        task.cancel()
        await followed.api.close()


@pytest.mark.parametrize(
    "line",
    [
        b"{not json",
        b'{"type": 5, "object": {}}',
        b'{"type": "ADDED", "object": {"metadata": {"name": "x", "resourceVersion": "7"}}}',
        b'{"type": "RENAMED", "object": {"metadata": {"name": "x", "uid": "u", "creationTimestamp": "t"}}}',
        b'{"type": "BOOKMARK", "object": {"metadata": {}}}',
    ],
    ids=["not JSON", "wrong types", "no uid", "unknown event", "no version"],
)
async def test_what_cannot_be_read_is_asked_for_anew(line):
    async with following("a") as followed:
        await followed.watching()
        followed.server.say(line)
        await followed.when(lambda: followed.reflector.errors["unreachable"] == 1)
        followed.server.put("MCPPolicy", "b", SPEC)
        await followed.until("a", "b")


@pytest.mark.parametrize("event", [5, "RENAMED"], ids=["wrong types", "unknown event"])
async def test_an_event_that_can_never_be_read_is_got_around_by_a_list(event):
    async with following("a") as followed:
        await followed.watching()
        server = followed.server
        server.silent = True
        server.put("MCPPolicy", "b", SPEC)
        version, _, path, found = server._history[-1]
        server._history[-1] = (version, event, path, found)
        server.silent = False
        server.cut()
        await followed.until("a", "b")
        assert lists(server) == 2


async def test_the_server_says_how_long_to_wait():
    async with kubernetes_api() as server:
        server.answers.append(Answer(429, "TooManyRequests", headers={"retry-after": "7"}))
        followed = Followed(server)
        task = asyncio.create_task(followed.reflector.run())
        await followed.when(lambda: followed.reflector.synced)
        task.cancel()
        assert 7 <= followed.pauses[0] <= 7.25
        assert followed.reflector.errors == {"too_many_requests": 1}
        await followed.api.close()


async def test_what_it_asks_for_counts_and_not_what_failed_before():
    async with kubernetes_api() as server:
        server.answers += [Answer(500, "InternalError")] * 20
        server.answers += [Answer(429, "TooManyRequests", headers={"retry-after": "2"})] * 5
        server.answers.append(Answer(429, "TooManyRequests", headers={"retry-after": "0"}))
        followed = Followed(server)
        task = asyncio.create_task(followed.reflector.run())
        await followed.when(lambda: followed.reflector.synced)
        task.cancel()
        *asked, unsaid = followed.pauses[20:]
        assert (len(asked), all(2 <= pause <= 3 for pause in asked), 0 < unsaid <= 15) == (5, True, True)
        await followed.api.close()


async def test_pauses_grow_and_are_bounded_while_it_is_away(caplog):
    caplog.set_level("INFO", logger="openmcp.kubernetes")
    async with following("a") as followed:
        await followed.until("a")
        await followed.server.stop()
        await followed.when(lambda: len(followed.pauses) == 12)
        assert "cannot connect" in followed.reflector.problem
        assert all(pause <= min(15, 0.25 * 2**number) for number, pause in enumerate(followed.pauses))
        assert [one.name for one in followed.reflector.objects.values()] == ["a"]
        await followed.server.start()
        followed.server.put("MCPPolicy", "b", SPEC)
        await followed.until("a", "b")
        assert [record.getMessage() for record in caplog.records] == [
            "objects of kind MCPPolicy cannot be followed: cannot connect: Connection refused",
            "objects of kind MCPPolicy are followed again",
        ]


@pytest.mark.parametrize(
    ("answer", "reason", "problem"),
    [
        (Answer(403, "Forbidden", "not yours"), "forbidden", "not yours"),
        (Answer(401, "Unauthorized"), "unauthorized", "something is wrong"),
        (Answer(404, "NotFound"), "not_found", "something is wrong"),
        (Answer(503, "ServiceUnavailable"), "server_error", "something is wrong"),
        (Answer(418, body=b"<html>"), "refused", "<html>"),
        (Answer(200, body=b"<html>"), "unreachable", "the answer is not JSON"),
        (Answer(200, body=b"[]"), "unreachable", "the answer is not a JSON object"),
        (Answer(200, body=b'{"metadata":{},"items":[]}'), "unreachable", "a list without a resourceVersion"),
        (Answer(302, headers={"location": "/elsewhere"}), "refused", "something is wrong"),
    ],
)
async def test_refusals_are_told_apart_and_asked_again(answer, reason, problem):
    async with kubernetes_api() as server:
        server.put("MCPPolicy", "a", SPEC)
        server.answers.append(answer)
        followed = Followed(server)
        task = asyncio.create_task(followed.reflector.run())
        await followed.when(lambda: followed.pauses)
        assert (dict(followed.reflector.errors), followed.reflector.problem) == ({reason: 1}, problem)
        await followed.until("a")
        assert followed.reflector.problem == ""
        task.cancel()
        await followed.api.close()


async def test_watches_that_end_at_once_are_not_begun_in_a_circle():
    async with kubernetes_api() as server:
        server.put("MCPPolicy", "a", SPEC)
        server.match = "WATCH"
        server.answers.extend(Answer(200, body=b"") for _ in range(4))
        followed = Followed(server)
        task = asyncio.create_task(followed.reflector.run())
        await server.until(lambda: server.watching == 1)
        assert (len(followed.pauses), followed.reflector.errors) == (4, {"closed": 4})
        task.cancel()
        await followed.api.close()


async def test_a_list_that_is_too_large_is_asked_for_in_smaller_pages(monkeypatch):
    monkeypatch.setattr("openmcp.config.kubernetes.api.LIMIT", 4000)
    names = [f"p{number:02}" for number in range(60)]
    async with following(*names) as followed:
        await followed.until(*names)
        assert [asked.query["limit"] for asked in followed.server.asked if not asked.watches][:4] == [
            "500",
            "125",
            "31",
            "7",
        ]
