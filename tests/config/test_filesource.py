"""Changes of files are told once they are whole. Looks are driven by the test, so nothing here waits for time."""

import asyncio
import os
from pathlib import Path

import pytest

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.filesource import FileSource, referenced_files
from openmcp.config.model import Configuration, Secret, Server, ServerTls, Sessions
from tests.config.sources import HEAD, good


def text(level: str) -> str:
    return HEAD + f"telemetry: {{logLevel: {level}}}\n"


class Watched:
    """A source whose looks are taken one by one."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self._due: asyncio.Queue[None] = asyncio.Queue()
        self._idle = asyncio.Event()
        self.source = FileSource(path, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        assert seconds == 1.0
        self._idle.set()
        await self._due.get()

    async def follow(self) -> None:
        async for found in self.source.changes():
            self.told.append(found.configuration.telemetry.log_level if isinstance(found, Loaded) else str(found))

    async def look(self, times: int = 1) -> list[str]:
        """Have the source look so many times; what it told since the last call."""
        for _ in range(times):
            await self._idle.wait()
            self._idle.clear()
            self._due.put_nowait(None)
        await self._idle.wait()
        told, self.told = self.told, []
        return told

    async def poke(self) -> list[str]:
        """As `look`, but asked for by a signal."""
        await self._idle.wait()
        self._idle.clear()
        self.source.poke()
        await self._idle.wait()
        told, self.told = self.told, []
        return told


@pytest.fixture
async def watch():
    """Begins to follow a path that has been loaded."""
    tasks = []

    def begin(path: Path) -> Watched:
        watched = Watched(path)
        watched.source.load()
        tasks.append(asyncio.create_task(watched.follow()))
        return watched

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def gateway(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text(text("info"))
    return path


async def test_nothing_is_told_while_nothing_changes(watch, gateway):
    assert await watch(gateway).look(5) == []


async def test_a_change_is_told_once_when_two_looks_agree(watch, gateway):
    watched = watch(gateway)
    gateway.write_text(text("debug"))
    assert await watched.look() == []
    assert await watched.look() == ["debug"]
    assert await watched.look(3) == []


async def test_a_file_being_written_is_left_alone(watch, gateway):
    watched = watch(gateway)
    with gateway.open("w") as stream:
        for part in ("apiVersion: ", "openmcp.dev/v1alpha1\n", "telemetry: {logLevel: "):
            stream.write(part)
            stream.flush()
            assert await watched.look() == []
        stream.write("error}\n")
    assert await watched.look(2) == ["error"]


async def test_an_editor_that_replaces_the_file(watch, gateway):
    watched = watch(gateway)
    before = gateway.stat()
    fresh = gateway.with_suffix(".new")
    fresh.write_bytes(gateway.read_bytes())  # as long and as old: a new inode all the same
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.replace(gateway)
    assert await watched.look(2) == ["info"]


async def test_an_error_is_told_and_then_the_correction(watch, gateway):
    watched = watch(gateway)
    gateway.write_text(text("loud"))
    (error,) = await watched.look(2)
    assert error == f'{gateway}:2: telemetry.logLevel: unknown logLevel "loud" (one of: debug, info, warning, error)'
    assert await watched.look(3) == []
    gateway.write_text(text("debug"))
    assert await watched.look(2) == ["debug"]


async def test_a_file_that_is_gone_for_a_moment_is_not_missed(watch, gateway):
    watched = watch(gateway)
    gateway.unlink()
    assert await watched.look() == []
    gateway.write_text(text("debug"))
    assert await watched.look(2) == ["debug"]


async def test_a_file_that_stays_away(watch, gateway):
    watched = watch(gateway)
    gateway.unlink()
    assert await watched.look(2) == [f"{gateway}: no such file (`openmcp init` writes one to begin with)"]
    assert await watched.look(2) == []


async def test_a_signal_reads_at_once_also_what_did_not_change(watch, gateway):
    watched = watch(gateway)
    assert await watched.poke() == ["info"]
    gateway.write_text(text("debug"))
    assert await watched.poke() == ["debug"]
    assert await watched.look(3) == []


async def test_a_change_between_making_the_source_and_following_it(gateway):
    watched = Watched(gateway)
    watched.source.load()
    gateway.write_text(text("debug"))
    task = asyncio.create_task(watched.follow())
    assert await watched.look(2) == ["debug"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_files_of_a_folder_come_change_and_go(watch, tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "a.yaml").write_text(text("info"))
    watched = watch(folder)
    (folder / "b.yaml").write_text(HEAD)
    assert await watched.look(2) == ["info"]
    (folder / "b.yaml").write_text(HEAD + "# changed\n")
    assert await watched.look(2) == ["info"]
    (folder / "b.yaml").unlink()
    assert await watched.look(2) == ["info"]
    (folder / "notes.txt").write_text("not read")
    assert await watched.look(2) == []


async def test_a_config_map_is_swapped_by_its_symlink(watch, tmp_path):
    mount = tmp_path / "mount"
    for version, level in (("..1", "info"), ("..2", "error")):
        (mount / version).mkdir(parents=True)
        (mount / version / "gateway.yaml").write_text(text(level))
    (mount / "..data").symlink_to("..1")
    (mount / "gateway.yaml").symlink_to("..data/gateway.yaml")
    by_file, by_folder = watch(mount / "gateway.yaml"), watch(mount)
    (mount / "..tmp").symlink_to("..2")
    (mount / "..tmp").replace(mount / "..data")
    assert await by_file.look(2) == ["error"]
    assert await by_folder.look(2) == ["error"]


async def test_the_files_that_a_configuration_refers_to(watch, gateway, tmp_path):
    key = tmp_path / "session.key"
    gateway.write_text(text("info") + "sessions: {key: {file: session.key}}\n")
    watched = watch(gateway)
    key.write_text("a")
    assert await watched.look(2) == ["info"]
    key.write_text("b")
    assert await watched.look(2) == ["info"]
    gateway.write_text(text("debug"))
    assert await watched.look(2) == ["debug"]
    key.write_text("c")
    assert await watched.look(3) == []


async def test_further_files(watch, gateway, tmp_path):
    watched = watch(gateway)
    first, second = tmp_path / "first", tmp_path / "second"
    watched.source.watch([first])
    first.write_text("a")
    assert await watched.look(2) == ["info"]
    watched.source.watch([second])
    first.write_text("b")
    assert await watched.look(3) == []
    second.write_text("a")
    assert await watched.look(2) == ["info"]


async def test_files_stay_watched_when_the_configuration_goes_bad(watch, gateway, tmp_path):
    gateway.write_text(text("info") + "sessions: {key: {file: session.key}}\n")
    watched = watch(gateway)
    gateway.write_text("bad")
    assert len(await watched.look(2)) == 1
    (tmp_path / "session.key").write_text("a")
    assert len(await watched.look(2)) == 1


def test_loading_what_is_bad(gateway):
    source = FileSource(gateway)
    gateway.write_text("bad")
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        source.load()


def test_referenced_files():
    made = Configuration(
        servers=(
            Server(name="a", path="/a", endpoints=("https://a/",), tls=ServerTls(ca=Secret(file="ca.pem"))),
            Server(name="b", path="/b", endpoints=("https://b/",), tls=ServerTls(ca=Secret(env="CA"))),
        ),
        sessions=Sessions(key=Secret(file="session.key")),
    )
    assert sorted(referenced_files(made)) == ["ca.pem", "session.key"]


def test_files_that_prove_who_we_are_and_who_calls_are_referenced():
    made = good(
        """
        listen: {tls: {certificate: {file: a.crt}, key: {file: a.key}, clientCa: {file: clients.pem}}}
        identity:
          agents:
            - {type: mtls, trustDomains: [a]}
            - {type: jwt, issuer: i, audience: a, jwks: {url: "https://i/", ca: {file: i.pem}}}
        servers:
          - {name: a, endpoints: ["https://a/"], auth: {type: header, name: X-Key, value: {file: token}}}
          - name: b
            endpoints: ["https://b/"]
            auth:
              type: oauth
              tokenUrl: https://t/
              client: {id: a, type: secret, secret: {file: secret}}
              ca: {file: t.pem}
        """
    ).configuration
    assert sorted(referenced_files(made)) == [
        *("a.crt", "a.key", "clients.pem", "i.pem", "secret", "t.pem", "token"),
    ]
