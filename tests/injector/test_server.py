"""The webhook over TLS: what it answers, what it records before, how certificates change under connections."""

import asyncio
import contextlib
import json
import os
import ssl
import time

import aiohttp
import pytest

from openmcp.config.model import Address
from openmcp.injector import records as records_module
from openmcp.injector import server
from openmcp.injector.authority import issue
from openmcp.injector.certificates import Served
from openmcp.injector.metrics import Metrics
from openmcp.injector.records import Records
from openmcp.injector.review import review
from openmcp.injector.server import Operations, Webhook
from openmcp.injector.settings import Settings, Sidecar

NAME = "openmcp-injector.mesh.svc"
LOOPBACK = Address(host="127.0.0.1", port=0)
SETTINGS = Settings(
    sidecar=Sidecar(image="registry.example/openmcp:1"), listen=LOOPBACK, admin=LOOPBACK, namespace="mesh"
)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "agent-7d9c-", "labels": {"openmcp.dev/inject": "true"}},
    "spec": {"containers": [{"name": "agent", "image": "registry.example/agent:1"}]},
}


def asked(pod=POD, uid="0d5b", **more):
    request = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": "support",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        **more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


class Scene:
    """A webhook that runs, a client that trusts its CA, and what it has recorded."""

    def __init__(self, judge=review):
        self.reading, writing = os.pipe()
        self.writing = writing
        self.records = Records(writing)
        self.metrics = Metrics("1.2.3")
        self.webhook = Webhook(SETTINGS, judge, self.records, self.metrics)
        self.served = Served()
        self.generation = issue({NAME}, time.time(), 3600)
        self.served.take(self.generation.certificate, self.generation.key)
        self.port = 0

    async def __aenter__(self):
        _, self.port = await self.webhook.start(self.served.tls.server_context(self.metrics.tls_refused))
        self.session = self.client(self.generation)
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.webhook.stop()
        self.records.close()
        os.close(self.writing)
        os.close(self.reading)

    def client(self, generation):
        trusting = ssl.create_default_context(cadata=generation.ca.decode())
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting))

    async def post(self, body, session=None, path=server.PATH):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"https://127.0.0.1:{self.port}{path}"
        async with (session or self.session).post(url, data=data, server_hostname=NAME) as response:
            return response.status, await response.read(), response.headers

    def recorded(self):
        os.set_blocking(self.reading, False)
        try:
            return [json.loads(line) for line in os.read(self.reading, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def counted(self, line):
        return next(
            float(one.rpartition(" ")[2])
            for one in self.metrics.exposition().decode().splitlines()
            if one.startswith(line)
        )


async def test_a_pod_gets_its_sidecar_and_the_admission_its_line():
    async with Scene() as scene:
        began = time.perf_counter()
        status, body, _ = await scene.post(asked())
        took = time.perf_counter() - began
        answer = json.loads(body)
        (line,) = scene.recorded()
    assert (status, answer["response"]["uid"], answer["response"]["allowed"]) == (200, "0d5b", True)
    assert "patch" in answer["response"]
    assert line.pop("time").endswith("Z")
    assert 0 < line.pop("milliseconds") < 1000 * took
    assert line == {
        "kind": "admission",
        "uid": "0d5b",
        "namespace": "support",
        "name": "agent-7d9c-",
        "user": "system:serviceaccount:kube-system:replicaset-controller",
        "outcome": "injected",
        "reason": "sidecar registry.example/openmcp:1",
        "image": "registry.example/openmcp:1",
        "dryRun": False,
        "warnings": line["warnings"],
    }
    assert scene.counted('openmcp_injector_admissions_total{result="injected"}') == 1
    assert scene.counted("openmcp_injector_admission_duration_seconds_count") == 1


async def test_a_refusal_is_recorded_with_its_reason():
    pod = POD | {"spec": POD["spec"] | {"hostNetwork": True}}
    async with Scene() as scene:
        status, body, _ = await scene.post(asked(pod, dryRun=True))
        (line,) = scene.recorded()
    response = json.loads(body)["response"]
    assert (status, response["allowed"]) == (200, False)
    assert (line["outcome"], line["reason"], line["dryRun"]) == ("refused", response["status"]["message"], True)
    assert scene.counted('openmcp_injector_admissions_total{result="refused"}') == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"\xff", 400), (b" " * (server.BODY + 1), 413)],
)
async def test_what_is_no_review_is_refused_and_not_recorded(body, status):
    async with Scene() as scene:
        assert (await scene.post(body))[0] == status
        assert scene.recorded() == []
        assert scene.counted('openmcp_injector_admissions_total{result="error"}') == 1


async def test_strangers_do_not_make_long_lines():
    long = "x" * 100_000
    stranger = asked(POD | {"metadata": {"generateName": long}}, long, namespace=long, userInfo={"username": long})
    async with Scene() as scene:
        await scene.post(stranger)
        (line,) = scene.recorded()
    assert [len(line[key]) for key in ("uid", "namespace", "name", "user")] == [1000] * 4


async def test_there_is_nothing_else_to_be_had():
    async with Scene() as scene:
        assert (await scene.post(asked(), path="/"))[0] == 404
        async with scene.session.get(f"https://127.0.0.1:{scene.port}{server.PATH}", server_hostname=NAME) as response:
            assert response.status == 405


async def test_it_agrees_to_the_protocol_that_it_speaks():
    """API servers offer HTTP/2 as well."""
    async with Scene() as scene:
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()


async def test_a_fault_of_ours_admits_nothing(caplog):
    def fails(body, settings):
        raise KeyError("spec")

    async with Scene(fails) as scene:
        status, body, _ = await scene.post(asked())
    assert (status, body) == (500, b"a fault of the injector: its log says more\n")
    assert "a pod could not be judged" in caplog.text


async def test_what_cannot_be_recorded_does_not_happen(monkeypatch):
    monkeypatch.setattr(records_module, "PATIENCE", 0.2)
    async with Scene() as scene:
        os.set_blocking(scene.writing, False)
        while True:  # a reader that has stopped reading
            try:
                os.write(scene.writing, b"\n" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(scene.writing, True)
        status, body, _ = await scene.post(asked())
        assert (status, body) == (500, b"the admission cannot be recorded\n")
        monkeypatch.setattr(records_module, "PATIENCE", 60)
        os.read(scene.reading, 1 << 20)
        assert (await scene.post(asked()))[0] == 200


async def test_who_stood_still_for_longer_than_that_can_record(monkeypatch):
    """As on a machine that was paused: all its time is over at once, before the first look."""
    monkeypatch.setattr(records_module, "PATIENCE", 0.1)
    async with Scene() as scene:
        writing = asyncio.ensure_future(scene.records.write(review(json.dumps(asked()).encode(), SETTINGS), 0.001))
        await asyncio.sleep(0)  # it is begun
        time.sleep(0.3)  # noqa: ASYNC251 - this is what stands still
        await writing
        assert [line["outcome"] for line in scene.recorded()] == ["injected"]


async def test_a_closed_output_refuses(caplog):
    scene = Scene()
    async with scene:
        reading, scene.reading = scene.reading, os.open(os.devnull, os.O_RDONLY)
        os.close(reading)
        assert (await scene.post(asked()))[0] == 500
    assert "as it cannot be recorded: standard output: Broken pipe" in caplog.text


async def test_new_connections_have_the_new_certificate_and_old_ones_go_on():
    async with Scene() as scene:
        assert (await scene.post(asked()))[0] == 200
        after = issue({NAME}, time.time(), 3600)
        scene.served.take(after.certificate, after.key)
        assert (await scene.post(asked()))[0] == 200
        async with scene.client(scene.generation) as stranger:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await scene.post(asked(), stranger)
        async with scene.client(after) as session:
            assert (await scene.post(asked(), session))[0] == 200


async def test_while_draining_every_answer_ends_its_connection():
    async with Scene() as scene:
        assert "connection" not in (await scene.post(asked()))[2]
        scene.webhook.drain()
        status, _, headers = await scene.post(asked())
        assert (status, headers["connection"]) == (200, "close")


async def connect_again_and_again(port):
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def test_what_is_under_way_at_the_end_is_answered():
    begun, ending = asyncio.Event(), asyncio.Event()

    class Slow(Records):
        async def write(self, admission, seconds):
            begun.set()
            await ending.wait()

    scene = Scene()
    scene.webhook._records = Slow(scene.writing)
    async with scene:
        asking = asyncio.ensure_future(scene.post(asked()))
        await begun.wait()
        stopping = asyncio.ensure_future(scene.webhook.stop())
        with pytest.raises(OSError, match="Connect call failed"):
            await connect_again_and_again(scene.port)
        ending.set()
        assert (await asking)[0] == 200
        await stopping


async def test_a_client_that_sends_nothing_is_put_out(monkeypatch):
    monkeypatch.setattr(server, "_FIRST", 0.05)
    monkeypatch.setattr(server, "SWEEP", 0.05)
    async with Scene() as scene:
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME)
        writer.write(b"POST /mutate HTTP/1.1\r\nHost:")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert (await scene.post(asked()))[0] == 200


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(server, "_BODY_PATIENCE", 0.1)
    async with Scene() as scene:
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME)
        writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400")
        writer.close()


@pytest.mark.parametrize("length", [100, server.BODY])
async def test_strangers_who_send_slowly_keep_no_review_waiting(monkeypatch, length):
    """Twice as many as are read at once; the 100 (Continue) says that the body of each is waited for."""
    monkeypatch.setattr(server, "_BODY_PATIENCE", 3600)
    async with Scene() as scene:
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        strangers = []
        for _ in range(2 * server.AT_ONCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME)
            strangers.append(writer)
            head = b"POST /mutate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % length)
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 100")
            writer.write(b"{")
        status, body, _ = await asyncio.wait_for(scene.post(asked()), 30)
        assert (status, json.loads(body)["response"]["allowed"]) == (200, True)
        for writer in strangers:
            writer.close()


async def test_who_has_most_connections_makes_room(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 4)
    monkeypatch.setattr(server, "_BODY_PATIENCE", 3600)
    async with Scene() as scene:
        assert (await scene.post(asked()))[0] == 200
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        ends, writers = [], []
        for number in range(5):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME, local_addr=("127.0.0.2", 0)
            )
            if number < 4:
                writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
                assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 100")
            writers.append(writer)
            ends.append(asyncio.ensure_future(ended(reader)))
        await asyncio.wait_for(asyncio.gather(*ends[:2]), 5)
        assert [end.done() for end in ends] == [True, True, False, False, False]
        (kept,) = scene.session.connector._conns.values()  # the connection of before is used again
        assert [protocol.is_connected() for protocol, _ in kept] == [True]
        assert (await scene.post(asked()))[0] == 200
    await asyncio.gather(*ends)


async def ended(reader):
    """Wait until the other side has ended a connection, whichever way."""
    with contextlib.suppress(ConnectionError):
        await reader.read()


async def test_who_leaves_within_a_review_is_no_fault(caplog):
    async with Scene() as scene:
        trusting = ssl.create_default_context(cadata=scene.generation.ca.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=trusting, server_hostname=NAME)
        writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 100")
        writer.transport.abort()
    assert scene.counted('openmcp_injector_admissions_total{result="error"}') == 1, "stopping waits for it"
    assert caplog.text == ""


async def test_a_handshake_that_fails_is_counted():
    async with Scene() as scene:
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert scene.counted('openmcp_injector_tls_refused_total{reason="plain HTTP instead of TLS"}') == 1


async def test_operators_see_why_it_is_not_ready():
    faults = ["draining"]
    operations = Operations(lambda: faults, lambda: {"leads": ["a"]}, Metrics("1.2.3"))
    _, port = await operations.start(LOOPBACK)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            found = []
            for path in ("/healthz", "/readyz", "/metrics", "/else"):
                async with session.get(path) as response:
                    found.append((response.status, response.content_type, await response.text()))
            faults.clear()
            async with session.get("/readyz") as response:
                ready = response.status, await response.json()
    finally:
        await operations.stop()
    assert [status for status, _, _ in found] == [200, 503, 200, 404]
    assert json.loads(found[1][2]) == {"ready": False, "faults": ["draining"], "leads": ["a"]}
    assert ready == (200, {"ready": True, "faults": [], "leads": ["a"]})
    assert 'openmcp_build_info{version="1.2.3"} 1.0' in found[2][2]
