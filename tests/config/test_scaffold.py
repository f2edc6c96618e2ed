"""What `openmcp init` writes is good as it is, what is left to its reader is said, and nothing is overwritten."""

from importlib import resources
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from openmcp.config import load, model, scaffold
from openmcp.sidecar.cli import main
from openmcp.sidecar.commands.configuration import _NEXT

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(str(resources.files("openmcp.config"))) / "templates"
OF_THE_READER = {
    "local": [],
    "vm": [
        "identity.agents[0].trustDomains[0]",
        "servers[0].endpoints[0]",
        "servers[0].auth.serverIds[0]",
        "policies[1].agents[0]",
    ],
    "kubernetes": [],
    "gateway": [
        "listen.url",
        "identity.agents[0].issuer",
        "identity.agents[0].jwks.url",
        "servers[0].endpoints[0]",
        "servers[0].endpoints[1]",
        "policies[1].agents[0]",
        "state.url",
    ],
}
"""What is to be filled in in each gateway.yaml, and nothing else is warned of."""


def test_the_laptop_validates_without_a_warning(tmp_path):
    written = scaffold.write(tmp_path / "new" / "folder")
    assert [file.name for file in written] == ["gateway.yaml", "sample_server.py", "call.py", "policy.yaml"]
    found = load(written[0])
    assert found.warnings == ()
    (server,) = found.configuration.servers
    assert (server.name, server.path, server.endpoints) == ("sample", "/sample", ("http://127.0.0.1:9100/mcp",))
    assert found.configuration.identity.agents == (model.NoneAgents(),)


@pytest.mark.parametrize("profile", scaffold.PROFILES)
def test_each_profile_validates_and_says_what_to_fill_in(tmp_path, profile):
    scaffold.write(tmp_path, profile)
    warnings = load(tmp_path / "gateway.yaml").warnings
    assert [warning.path for warning in warnings] == OF_THE_READER[profile]
    assert {warning.hint for warning in warnings} <= {'write your own for "change-me"'}
    assert (tmp_path / "gateway.yaml").read_text().count("change-me") == len(warnings) + _in_comments(tmp_path)


def _in_comments(folder):
    return sum(
        line.partition("# ")[2].count("change-me") for line in (folder / "gateway.yaml").read_text().splitlines()
    )


def test_what_is_filled_in_is_warned_of_no_more(tmp_path):
    file = scaffold.write(tmp_path, "vm")[0]
    file.write_text(file.read_text().replace("change-me.example", "prod.acme.example"))
    assert load(file).warnings == ()


def test_objects_of_a_cluster_validate_too(tmp_path):
    scaffold.write(tmp_path, "kubernetes")
    found = load(tmp_path / "objects", "agents")
    assert [warning.path for warning in found.warnings] == ["spec.auth.serverIds[0]", "spec.agents[0]"]
    assert [policy.name for policy in found.configuration.policies] == ["tickets-limits", "support-bot"]
    assert isinstance(load(tmp_path / "gateway.yaml").configuration.source, model.KubernetesOrigin)
    namespace = yaml.safe_load((tmp_path / "namespace.yaml").read_text())["metadata"]["name"]
    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    assert (values["sidecar"]["namespaces"], values["trust"]["configMaps"]) == ([namespace], [f"{namespace}/openmcp"])


@pytest.mark.parametrize("profile", scaffold.PROFILES)
def test_the_tests_of_policies_pass(tmp_path, profile):
    scaffold.write(tmp_path, profile)
    done = CliRunner().invoke(main, ["test", str(tmp_path / "tests" / "policy.yaml")])
    assert done.exit_code == 0, done.output
    assert done.output.endswith(", none failed\n")


@pytest.mark.parametrize("profile", scaffold.PROFILES)
def test_the_command_names_the_files_and_the_next_steps(tmp_path, profile):
    folder = tmp_path / "a folder"
    done = CliRunner().invoke(main, ["init", str(folder), "--profile", profile])
    assert done.exit_code == 0, done.output
    files = [line.removeprefix("wrote ") for line in done.output.splitlines() if line.startswith("wrote ")]
    assert sorted(files) == sorted(str(file) for file in folder.rglob("*") if file.is_file())
    told = done.output.partition("\nNext:\n")[2].splitlines()
    assert told[0] == f"  cd '{folder}'"
    assert [line.partition(" # ")[0].strip() for line in told[1:]] == [command for command, _ in _NEXT[profile]]


def test_every_template_is_somebodys():
    used = {TEMPLATES / profile / template for profile, files in scaffold.PROFILES.items() for _, template in files}
    found = {file for file in TEMPLATES.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert found == used


def test_the_unit_is_that_of_the_example():
    unit = (TEMPLATES / "vm" / "openmcp.service").read_text()
    assert unit == (ROOT / "examples" / "vm-spire" / "openmcp.service").read_text()


@pytest.mark.parametrize(
    ("profile", "name"), [(one, name) for one, all in scaffold.PROFILES.items() for name, _ in all]
)
def test_nothing_is_overwritten(tmp_path, profile, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(scaffold.AlreadyThere) as caught:
        scaffold.write(tmp_path, profile)
    assert str(caught.value) == f"already there: {tmp_path / name}"
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if not file.is_dir()] == [name]


def test_a_profile_that_does_not_exist(tmp_path):
    done = CliRunner().invoke(main, ["init", str(tmp_path), "--profile", "cloud"])
    assert done.exit_code == 2
    assert "'local', 'vm', 'kubernetes', 'gateway'" in done.output
    assert list(tmp_path.iterdir()) == []
