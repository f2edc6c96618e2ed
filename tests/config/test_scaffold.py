"""What `openmcp init` writes is good as it is, and nothing is overwritten."""

import pytest

from openmcp.config import load, model, scaffold


def test_it_validates_without_a_warning(tmp_path):
    written = scaffold.write(tmp_path / "new" / "folder")
    assert [file.name for file in written] == ["gateway.yaml", "sample_server.py", "policy.yaml"]
    found = load(written[0])
    assert found.warnings == ()
    (server,) = found.configuration.servers
    assert (server.name, server.path, server.endpoints) == ("sample", "/sample", ("http://127.0.0.1:9100/mcp",))
    assert found.configuration.identity.agents == (model.NoneAgents(),)


@pytest.mark.parametrize("name", scaffold.FILES)
def test_nothing_is_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(scaffold.AlreadyThere) as caught:
        scaffold.write(tmp_path)
    assert str(caught.value) == f"already there: {tmp_path / name}"
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if not file.is_dir()] == [name]
