"""The writer of conditions, while the API server refuses, objects change and events are late."""

import asyncio
import logging
import threading
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from openmcp.config.kubernetes.api import Api
from openmcp.config.kubernetes.guard import OWN
from openmcp.injector import status
from openmcp.injector.metrics import Metrics
from openmcp.injector.status import StatusWriter
from tests.fakes.kubernetes_api import OURS, Answer, Reach, kubernetes_api

SERVER = {"endpoints": ["https://mcp.zendesk.example/mcp"]}
POLICY = {"servers": ["zendesk"], "requests": [{"name": "read", "action": "allow", "tools": ["list_*"]}]}
ASKING = {
    "servers": ["zendesk"],
    "requests": [{"name": "close", "action": "requireApproval", "approval": {"workflow": "leads"}}],
}


@pytest.fixture
async def cluster():
    async with kubernetes_api() as made:
        yield made


@asynccontextmanager
async def writing(cluster):
    api = Api(Reach(cluster))
    writer = StatusWriter(api, Metrics("1.2.3"))
    task = asyncio.ensure_future(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(status, "TOGETHER", 0.01)
    monkeypatch.setattr(status, "_PAUSES", (0.01, 0.05))


def found(cluster, kind, name, namespace="test"):
    resource = {"MCPServer": "mcpservers", "MCPPolicy": "mcppolicies"}[kind]
    return cluster.objects[f"{OURS.format(namespace, resource)}/{name}"]


def said(cluster, kind, name, namespace="test"):
    """The condition of the present generation as True or False, or None."""
    one = found(cluster, kind, name, namespace)
    conditions = one.get("status", {}).get("conditions", [])
    return next((c["status"] for c in conditions if c["observedGeneration"] == one["metadata"]["generation"]), None)


def patches(cluster):
    return Counter(asked.path.split("/")[-2] for asked in cluster.asked if asked.method == "PATCH")


async def test_objects_of_all_namespaces_are_judged_by_themselves(cluster):
    cluster.put("MCPServer", "zendesk", SERVER, "one")
    cluster.put("MCPPolicy", "asking", ASKING, "one")
    cluster.put("MCPPolicy", "reading", POLICY, "two")
    async with writing(cluster) as writer:
        await cluster.until(lambda: said(cluster, "MCPPolicy", "reading", "two") == "True")
        await cluster.until(lambda: said(cluster, "MCPPolicy", "asking", "one") == "False")
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk", "one") == "True")
        assert writer.counts() == {
            ("MCPServer", "accepted"): 1,
            ("MCPPolicy", "accepted"): 1,
            ("MCPPolicy", "refused"): 1,
        }
    assert writer.counts() == {}


def large(size):
    """A policy whose spec is larger than this."""
    names = [f"tool-{number:04}-{'x' * 80}" for number in range(1000)]
    rules = [{"name": f"r{number}", "action": "allow", "tools": names} for number in range(1 + size // 90_000)]
    return POLICY | {"requests": rules}


@pytest.mark.parametrize("most", ["MOST", "LARGEST"])
async def test_a_namespace_that_is_too_large_is_not_judged_and_keeps_none_from_it(cluster, monkeypatch, most):
    monkeypatch.setattr(status, most, 100_000)
    cluster.put("MCPServer", "zendesk", SERVER, "one")
    cluster.put("MCPPolicy", "reading", POLICY, "one")
    cluster.put("MCPPolicy", "reading", POLICY, "two")
    async with writing(cluster) as writer:
        await cluster.until(lambda: said(cluster, "MCPPolicy", "reading", "one") == "True")
        cluster.put("MCPPolicy", "reading", large(100_000), "one")
        await cluster.until(lambda: said(cluster, "MCPPolicy", "reading", "one") == "Unknown")
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk", "one") == "Unknown")
        cluster.put("MCPPolicy", "reading", POLICY | {"agents": ["key:a"]}, "two")
        await cluster.until(lambda: said(cluster, "MCPPolicy", "reading", "two") == "True")
        assert writer.counts() == {
            ("MCPServer", "unjudged"): 1,
            ("MCPPolicy", "unjudged"): 1,
            ("MCPPolicy", "accepted"): 1,
        }
        (condition,) = found(cluster, "MCPServer", "zendesk", "one")["status"]["conditions"]
        assert (condition["reason"], condition["message"][:16]) == ("TooLarge", "not judged here:")
        if most == "LARGEST":
            assert all(len(one.spec) <= 100_000 for one in writer._present().values())
        cluster.put("MCPPolicy", "reading", POLICY, "one")
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk", "one") == "True")


async def test_what_is_kept_as_it_was_read_is_bounded_over_all_namespaces(cluster, monkeypatch):
    monkeypatch.setattr(status, "KEPT", 150_000)
    cluster.put("MCPPolicy", "small", POLICY, "one")
    for namespace in ("two", "three"):
        cluster.put("MCPPolicy", "large", large(90_000), namespace)
    async with writing(cluster) as writer:
        for namespace in ("two", "three"):
            await cluster.until(lambda where=namespace: said(cluster, "MCPPolicy", "large", where) == "True")
        kept = {name for name, judged in writer._judged.items() if judged.parsed}
        assert "one" in kept
        assert len(kept) == 1
        cluster.put("MCPPolicy", "large", POLICY | {"requests": [{"name": "r", "action": "wave"}]}, "two")
        await cluster.until(lambda: said(cluster, "MCPPolicy", "large", "two") == "False")
        cluster.put("MCPPolicy", "other", POLICY, "two")  # judged with the last good version, which is read again
        await cluster.until(lambda: said(cluster, "MCPPolicy", "other", "two") == "True")
        assert "large" in {one.name for one in writer._judged["two"].good.values()}


async def test_what_comes_while_others_are_judged_is_judged_next(cluster, monkeypatch):
    heard, judge, listen = threading.Event(), status._judge, status._Follower._object
    loop = asyncio.get_running_loop()

    def slowly(objects, before):
        if not heard.is_set():
            loop.call_soon_threadsafe(cluster.put, "MCPServer", "late", SERVER | {"path": "/late"})
            assert heard.wait(10)
        return judge(objects, before)

    def listening(follower, whole):
        if whole["metadata"]["name"] == "late":
            heard.set()
        return listen(follower, whole)

    monkeypatch.setattr(status, "_judge", slowly)
    monkeypatch.setattr(status._Follower, "_object", listening)
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: patches(cluster)["late"] and said(cluster, "MCPServer", "late") == "True")
    assert patches(cluster) == {"zendesk": 1, "late": 1}


async def test_what_was_written_and_not_heard_of_yet_is_not_written_again(cluster):
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster) as writer:
        await cluster.until(lambda: cluster.watching == 3)
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
        cluster.silent = True
        cluster.put("MCPServer", "zendesk", SERVER | {"path": "/desk"})
        (watch,) = [one for one in cluster._watches if one.kind == "MCPServer"]
        watch.send("MODIFIED", found(cluster, "MCPServer", "zendesk"))
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
        for _ in range(3):  # others change, and are told of
            cluster.bookmark()
            await passed(writer)
    assert patches(cluster) == {"zendesk": 2}


async def passed(writer):
    """Another look at all of them was taken."""
    done, once = asyncio.Event(), writer._pass

    async def look():
        failures = await once()
        done.set()
        return failures

    writer._pass = look
    await asyncio.wait_for(done.wait(), 10)
    writer._pass = once


async def test_a_refusal_is_said_once_and_tried_again(cluster, caplog):
    cluster.match = "PATCH"
    cluster.answers.extend([Answer(403, "Forbidden", "not yours")] * 3)
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
    assert patches(cluster) == {"zendesk": 4}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "the status of MCPServer test/zendesk cannot be written: 403 Forbidden: not yours"
    ]


async def test_a_broken_answer_is_tried_again(cluster):
    cluster.match = "PATCH"
    cluster.answers.append(Answer(200, body=b"<html>"))
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")


async def test_a_conflict_is_left_to_what_is_heard_next(cluster, caplog):
    cluster.match = "PATCH"
    cluster.answers.append(Answer(409, "Conflict", "modified"))
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: patches(cluster) == {"zendesk": 1})
        cluster.put("MCPServer", "zendesk", SERVER | {"path": "/desk"})
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_another_schema_changes_what_is_read_and_no_generation(cluster):
    """As where a CRD that knew a key was replaced by one that does not."""
    cluster.put("MCPServer", "zendesk", SERVER | {"future": "x"})
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "False")
        one = found(cluster, "MCPServer", "zendesk")
        cluster._store(f"{OURS.format('test', 'mcpservers')}/zendesk", one | {"spec": SERVER}, one, spec=False)
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
        assert found(cluster, "MCPServer", "zendesk")["metadata"]["generation"] == one["metadata"]["generation"] == 1


async def test_what_all_sidecars_refuse_is_not_accepted(cluster):
    token = {"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"}
    cluster.put("MCPServer", "thief", SERVER | {"auth": {"type": "header", "name": "X-Key", "value": token}})
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "thief") == "False")
    (condition,) = found(cluster, "MCPServer", "thief")["status"]["conditions"]
    assert condition["message"] == f"MCPServer test/thief: spec: {OWN}"


async def test_what_was_removed_is_not_asked_for(cluster):
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster) as writer:
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
        cluster.remove("MCPServer", "zendesk")
        cluster.put("MCPServer", "other", SERVER)
        await cluster.until(lambda: said(cluster, "MCPServer", "other") == "True")
        assert writer.counts() == {("MCPServer", "accepted"): 1}
    assert patches(cluster) == {"zendesk": 1, "other": 1}


async def test_another_writer_begins_where_the_last_one_ended(cluster):
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")
    async with writing(cluster):
        await cluster.until(lambda: cluster.watching == 3)
        cluster.put("MCPServer", "other", SERVER | {"path": "/other"})
        await cluster.until(lambda: said(cluster, "MCPServer", "other") == "True")
    assert patches(cluster) == {"zendesk": 1, "other": 1}


async def test_nothing_is_written_before_all_kinds_are_known(cluster, monkeypatch, caplog):
    monkeypatch.setattr(status, "_PATIENCE", 0.05)
    cluster.match = "GET /apis/openmcp.dev/v1alpha1/approvalworkflows"
    cluster.answers.extend([Answer(403, "Forbidden", "not yours")] * 2)
    cluster.put("MCPServer", "zendesk", SERVER)
    async with writing(cluster):
        await cluster.until(lambda: not cluster.answers)
        assert patches(cluster) == {}
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk") == "True")


async def test_a_fault_in_one_namespace_is_told_once_and_leaves_the_others(cluster, monkeypatch, caplog):
    assemble = status.assemble

    def failing(documents, parsed, good):
        if any(one.object.namespace == "one" for one in parsed):
            raise RecursionError("too deep")
        return assemble(documents, parsed, good)

    monkeypatch.setattr(status, "assemble", failing)
    cluster.put("MCPServer", "zendesk", SERVER, "one")
    cluster.put("MCPServer", "zendesk", SERVER, "two")
    async with writing(cluster):
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk", "two") == "True")
        cluster.put("MCPServer", "zendesk", SERVER | {"path": "/desk"}, "two")
        await cluster.until(lambda: said(cluster, "MCPServer", "zendesk", "two") == "True")
    assert said(cluster, "MCPServer", "zendesk", "one") is None
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "the objects of namespace one cannot be judged"
    ]
