"""The sample server that `openmcp init` writes runs as it is and speaks MCP."""

import re
import subprocess
import sys

import pytest
from mcp import Client

from openmcp.config import scaffold


@pytest.fixture
def sample(tmp_path):
    """The URL of the sample server, running on a free port."""
    program = next(file for file in scaffold.write(tmp_path) if file.suffix == ".py")
    with subprocess.Popen([sys.executable, program, "0"], stderr=subprocess.PIPE, text=True) as process:
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


async def test_its_tools_are_those_the_sample_policy_speaks_of(sample):
    async with Client(sample) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "search_tickets",
            "get_ticket",
            "delete_ticket",
        ]
        found = await client.call_tool("search_tickets", {"text": "INVOICE"})
        assert [item.text for item in found.content] == ["2: Invoice shows the old address"]
        assert (await client.call_tool("get_ticket", {"number": "9"})).content[0].text == "no such ticket"
