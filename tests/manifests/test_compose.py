"""manifests/compose: what Compose itself says of it, what it publishes and allows, and whether its files fit."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from openmcp.config import load
from openmcp.sidecar.app import DRAIN
from tests.real_parts.install import program
from tests.support.composed import COMPOSE, copied, secrets
from tests.support.parts import missing, require
from tests.support.process import ROOT

COMPOSED: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
CLEAR = "state.url: redis:// to another machine: who is on the way can read requests, and grant them"
KEYS = "listen.mcp: agents send their keys and tokens to 0.0.0.0:15001 in the clear"


@pytest.fixture
def compose(tmp_path: Path) -> Path:
    """A copy in which secrets.sh has been run."""
    folder = copied(tmp_path)
    secrets(folder)
    return folder


def resolved(folder: Path) -> subprocess.CompletedProcess[str]:
    """What compose-go, the library that Docker Compose reads its files by, makes of compose.yaml."""
    env = {"PATH": os.environ["PATH"]}
    command = [program("compose", "compose-config")]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.real
def test_compose_takes_it(compose: Path) -> None:
    require("compose")
    done = resolved(compose)
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    assert made["services"].keys() == SERVICES.keys()
    for service in made["services"].values():
        for mount in service.get("volumes", ()):
            assert mount["type"] == "volume" or Path(mount["source"]).is_dir(), mount
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1"
    for secret in made["secrets"].values():
        assert Path(secret["file"]).is_file()
    assert Path(made["services"]["gateway"]["build"]["context"]) == compose.parents[1]


@pytest.mark.real
def test_without_secrets_compose_says_how_they_are_made(compose: Path) -> None:
    require("compose")
    (compose / ".env").unlink()
    done = resolved(compose)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run this once: sh secrets.sh" in done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.keys().isdisjoint({"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"})
    assert all(entry.endswith(":ro") for entry in service.get("volumes", ()) if entry.startswith("."))
    assert all(entry.split(":")[0] in COMPOSED["volumes"] for entry in service.get("volumes", ()) if entry[0] != ".")
    if "build" in service:
        dockerfile = COMPOSE / service["build"]["context"] / service["build"].get("dockerfile", "Dockerfile")
        assert re.findall(r"^USER (\S+)$", dockerfile.read_text(), re.MULTILINE) == ["65532:65532"]
    else:
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+[a-z-]*@sha256:[0-9a-f]{64}", service["image"])


@pytest.mark.parametrize("name", ["gateway", "console"])
def test_a_stop_waits_for_calls_under_way_and_for_the_record(name: str) -> None:
    """Docker kills after 10 s where nothing is said: the answer and the record's end would be lost."""
    seconds = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
    assert seconds
    assert int(seconds[1]) > DRAIN + 10


def test_nothing_is_published_but_on_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    assert len(set(published)) == len(published)
    assert not [
        entry for service in SERVICES.values() for entry in service.get("volumes", ()) if "docker.sock" in entry
    ]


def test_the_servers_and_redis_are_reached_by_those_who_need_them_alone() -> None:
    internal = {name for name, network in COMPOSED["networks"].items() if network.get("internal")}
    assert internal == {"tickets", "notes", "state", "telemetry"}
    inside = {network: {name for name, one in SERVICES.items() if network in one["networks"]} for network in internal}
    assert (inside["tickets"], inside["notes"]) == ({"gateway", "tickets"}, {"gateway", "notes"})
    assert inside["state"] == {"gateway", "console", "redis"}
    outside = {name for name, service in SERVICES.items() if set(service["networks"]) - internal}
    assert outside == {name for name, service in SERVICES.items() if "ports" in service}


def test_no_secret_is_written_in_a_file() -> None:
    assert all(
        re.fullmatch(r"\$\{OPENMCP_SECRETS:\?[^}]*secrets\.sh\}/\w+", secret["file"])
        for secret in COMPOSED["secrets"].values()
    )
    named = {name: value for one in SERVICES.values() for name, value in one.get("environment", {}).items()}
    assert all(value.startswith("/run/secrets/") for name, value in named.items() if "PASSWORD" in name)
    ignored = (COMPOSE / ".gitignore").read_text().split("\n")
    assert {"/.env", "/secrets/", "/run/", "who.yaml"} <= set(ignored)


def test_secrets_are_made_once_and_differ(compose: Path) -> None:
    folder = compose / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    readable = [*folder.iterdir(), compose / "gateway/who.yaml", compose / "console/who.yaml"]
    assert all(file.stat().st_mode & stat.S_IROTH for file in readable)  # by the containers' users
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert (
        len(set(first.values())) == len(first) == len(COMPOSED["secrets"]) + 2
    )  # the agent's, the approver's: outside
    assert all(len(first[name]) == 44 for name in first if name != "redis_users")
    secrets(compose)
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
    gateway, console = ((compose / name / "who.yaml").read_text() for name in ("gateway", "console"))
    assert hashlib.sha256(first["agent_key"].encode()).hexdigest() in gateway
    assert hashlib.sha256(first["approver_token"].encode()).hexdigest() in console
    assert hashlib.sha256(first["redis_password"].encode()).hexdigest() in first["redis_users"]
    written = gateway + console + first["redis_users"] + (compose / ".env").read_text()
    assert not [name for name, value in first.items() if name != "redis_users" and value in written]


def test_the_gateway_and_the_console_are_of_one_mind(compose: Path) -> None:
    gateway, console = load(compose / "gateway"), load(compose / "console")
    assert gateway.configuration.state == console.configuration.state
    assert gateway.configuration.approvals.workflows == console.configuration.approvals.workflows
    assert [warning.message.partition(" (")[0] for warning in console.warnings] == [CLEAR.partition(": ")[2]]
    said = {warning.message.partition(" (")[0] for warning in gateway.warnings}
    assert said == {CLEAR.partition(": ")[2], KEYS.partition(": ")[2]}


def files() -> list[Path]:
    """Configuration that names services."""
    folders = ("gateway", "console", "prometheus", "collector", "grafana")
    return [
        path for folder in folders for path in sorted((COMPOSE / folder).rglob("*.y*ml")) if path.name != "who.yaml"
    ]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(COMPOSE)))
def test_files_name_services_that_are_on_a_network_of_the_reader(path: Path) -> None:
    reader = SERVICES[path.relative_to(COMPOSE).parts[0]]
    text = re.sub(r"#.*", "", path.read_text())
    for name in re.findall(r"\b([a-z]+):\d{4,5}\b", text):
        assert set(reader["networks"]) & set(SERVICES[name]["networks"]), name


def test_prometheus_and_grafana_use_the_chart_s_rules_and_dashboard() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus/prometheus.yml").read_text())
    mounted = dict(reversed(entry.split(":")[:2]) for entry in SERVICES["grafana"]["volumes"])
    monitoring = (COMPOSE / mounted["/etc/openmcp-monitoring"]).resolve()
    assert monitoring == ROOT / "manifests/helm/openmcp/files/monitoring"
    assert config["rule_files"] == ["/etc/openmcp-monitoring/rules.yaml"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (monitoring / Path(home).name).exists()
    assert (monitoring / "rules.yaml").exists()
    (provider,) = yaml.safe_load((COMPOSE / "grafana/dashboards/openmcp.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/openmcp-monitoring"
    (source,) = yaml.safe_load((COMPOSE / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)


def test_the_sample_servers_packages_are_pinned_by_hash() -> None:
    text = (COMPOSE / "samples/requirements.txt").read_text()
    pins = re.findall(r"^\S+==\S+.*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
    assert len(pins) == text.count("==") - text.count("_version ==") - text.count("sys_platform ==")
    assert "--require-hashes" in (COMPOSE / "samples/Dockerfile").read_text()


@pytest.mark.real
def test_the_collector_takes_its_configuration() -> None:
    require("collector")
    config = COMPOSE / "collector/collector.yaml"
    done = subprocess.run(
        [program("collector", "otelcol"), "validate", f"--config={config}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_service_that_ends_takes_the_others_with_it_and_is_named(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        missing("redis-server (Debian package redis-server)")
    compose = copied(tmp_path)
    text = (compose / "compose.yaml").read_text()
    (compose / "compose.yaml").write_text(text.replace("--appendfsync, always", "--appendfsync, sometimes"))
    done = subprocess.run(
        [sys.executable, compose / "up.py", "--free-ports"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^redis ended with 1; it said last:", done.stderr, re.MULTILINE)
    assert "appendfsync" in done.stderr
    assert (compose / "run/tickets.log").exists()
    assert not [one for one in Path("/proc").glob("[0-9]*/cwd") if is_below(one, tmp_path)]


def is_below(link: Path, folder: Path) -> bool:
    """Whether a link, of a process that may just have ended, leads to what lies in a folder."""
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:
        return False
