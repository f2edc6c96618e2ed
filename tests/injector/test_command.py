"""The command of the injected container is one that `openmcp run` understands."""

import pytest
from click.testing import CliRunner

from openmcp.config.model import Address
from openmcp.sidecar import serve
from openmcp.sidecar.cli import main
from openmcp.sidecar.telemetry import log
from tests.injector.pods import patched, pod, sidecar_of

CONFIGURATION = "apiVersion: openmcp.dev/v1alpha1\nidentity: {agents: [{type: none}]}\ntelemetry: {logLevel: error}\n"


@pytest.mark.parametrize(
    ("notes", "level"), [({}, "error"), ({"log-level": "debug"}, "debug"), ({"log-level": "warning"}, "warning")]
)
def test_the_arguments_do_what_they_are_written_for(notes, level, tmp_path, monkeypatch):
    said: list[object] = []
    monkeypatch.setattr(log, "configure", said.append)
    monkeypatch.setattr(serve, "_run_loop", lambda source, loaded, admin: said.append(admin) or 0)
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIGURATION)
    arguments = sidecar_of(patched(pod(notes=notes)))["args"]
    told = [str(file) if one == "/etc/openmcp/gateway.yaml" else one for one in arguments]
    assert told != arguments
    result = CliRunner().invoke(main, told, catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, "")
    assert said == [level, Address(host="0.0.0.0", port=15020)]
