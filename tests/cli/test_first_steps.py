"""What `openmcp init` writes runs as it is: the sample server speaks MCP, and the gateway enforces the policy."""

import re
import subprocess
import sys

import pytest
import yaml
from mcp import Client

from openmcp.config import scaffold
from tests.support.process import sidecar

SEARCH = ("search_tickets", {"text": "INVOICE"})
FOUND = "2: Invoice shows the old address"


@pytest.fixture
def project(tmp_path):
    """A folder with the files of `openmcp init`."""
    scaffold.write(tmp_path)
    return tmp_path


@pytest.fixture
def sample(project):
    """The URL of the sample server, running on a free port."""
    command = [sys.executable, project / "sample_server.py", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            printed = ""
            for line in process.stderr:
                printed += line
                if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                    yield f"{found[1]}/mcp"
                    return
            pytest.fail(f"the sample server ended:\n{printed}")
        finally:
            process.kill()


def texts(result):
    return [item.text for item in result.content]


async def test_the_sample_server_alone(sample):
    async with Client(sample) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["search_tickets", "get_ticket", "delete_ticket"]
        assert texts(await client.call_tool(*SEARCH)) == [FOUND]
        assert texts(await client.call_tool("get_ticket", {"number": "9"})) == ["no such ticket"]


async def test_the_sample_server_behind_the_gateway(project, sample):
    written = yaml.safe_load((project / "gateway.yaml").read_text())
    written["servers"][0]["endpoints"] = [sample]
    config = {key: written[key] for key in ("identity", "servers", "policies")}  # the rest names fixed ports
    with sidecar(config) as gateway:
        async with Client(f"{gateway.url}/sample") as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["search_tickets", "get_ticket"]
            assert texts(await client.call_tool(*SEARCH)) == [FOUND]
            denied = await client.call_tool("delete_ticket", {"number": "1"})
            assert denied.is_error
            assert "deleting tickets is left to people" in texts(denied)[0]
