"""`openmcp state create`, and opening what the configuration says."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moto.server import ThreadedMotoServer

from openmcp.config.model import DynamodbState, MemoryState, RedisState, Secret, SqliteState
from openmcp.sidecar.cli import main
from openmcp.sidecar.state.dynamodb import DynamoStore
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.opening import CannotOpen, open_store
from openmcp.sidecar.state.redis import RedisStore
from openmcp.sidecar.state.sqlite import SqliteStore
from tests.support.process import free_ports


def create(tmp_path: Path, state: str) -> Result:
    gateway = tmp_path / "gateway.yaml"
    gateway.write_text(f"apiVersion: openmcp.dev/v1alpha1\nstate: {state}\n")
    return CliRunner().invoke(main, ["state", "create", "-c", str(gateway)])


def test_nothing_to_do_for_memory(tmp_path: Path) -> None:
    done = create(tmp_path, "{type: memory}")
    assert (done.exit_code, done.stdout) == (0, "state is kept in memory: there is nothing to create\n")


def test_a_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert create(tmp_path, "{type: sqlite, path: state.db}").stdout == f"created {path}\n"
    assert path.exists()
    assert create(tmp_path, "{type: sqlite, path: state.db}").stdout == f"{path} is there\n"


def test_a_table_is_made_once_also_where_sidecars_take_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    table = f"t{secrets.token_hex(6)}"
    state = f"{{type: dynamodb, table: {table}, region: eu-west-1, endpoint: 'http://{host}:{port}', "
    state += "credentials: spiffe, roleArn: 'arn:aws:iam::123456789012:role/openmcp'}"
    assert create(tmp_path, state).stdout.startswith(f"created table {table}; ")
    assert create(tmp_path, state).stdout == f"table {table} is there\n"
    server.stop()


def test_what_cannot_be_reached_is_an_outside_failure(tmp_path: Path) -> None:
    done = create(tmp_path, f"{{type: redis, url: 'redis://127.0.0.1:{free_ports(1)[0]}'}}")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert "Redis at 127.0.0.1" in done.stderr


def test_a_configuration_that_is_wrong_is_told(tmp_path: Path) -> None:
    done = create(tmp_path, "{type: sqlite}")
    assert done.exit_code == 1
    assert "`path` is required" in done.stderr


def test_each_kind_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_store(MemoryState()), MemoryStore)
    assert isinstance(open_store(SqliteState(path=str(tmp_path / "x"))), SqliteStore)
    monkeypatch.setenv("P", "hunter2")
    assert isinstance(open_store(RedisState(url="redis://localhost", password=Secret(env="P"))), RedisStore)


def test_a_secret_that_is_missing_is_told() -> None:
    with pytest.raises(CannotOpen, match="state: environment variable NOT_SET is not set"):
        open_store(RedisState(url="redis://localhost", password=Secret(env="NOT_SET")))


def test_without_an_svid_no_role_is_taken() -> None:
    state = DynamodbState(table="abc", region="eu-west-1", credentials="spiffe", role_arn="arn")
    with pytest.raises(CannotOpen, match="needs an SVID"):
        open_store(state)


async def test_a_role_s_session_is_made_at_once() -> None:
    made: list[object] = []
    state = DynamodbState(table="abc", region="eu-west-1", credentials="spiffe", role_arn="arn")
    store = open_store(state, made.append)
    assert made == [state]
    assert isinstance(store, DynamoStore)
    await store.close()


@pytest.mark.parametrize(
    ("library", "state", "extra"),
    [
        ("redis", "RedisState(url='redis://localhost')", "redis"),
        ("botocore", "DynamodbState(table='abc', region='eu-west-1')", "dynamodb"),
    ],
)
def test_a_library_that_is_missing_is_told(library: str, state: str, extra: str) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError("No module named {library}")
sys.meta_path.insert(0, Missing())
from openmcp.config.model import *
from openmcp.sidecar.state.opening import open_store
open_store({state})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'openmcp[{extra}]'" in done.stderr.splitlines()[-1]


def test_nothing_is_imported_for_a_store_that_is_not_configured() -> None:
    code = """
import sys
from openmcp.config.model import MemoryState
from openmcp.sidecar.approvals import service
from openmcp.sidecar.state.opening import open_store
open_store(MemoryState())
print(sorted({"redis", "boto3", "botocore", "sqlite3"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
