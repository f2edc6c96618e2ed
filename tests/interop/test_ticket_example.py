"""The ticket example: a support bot that may look, has to ask, and takes no customer's data away.

Official clients of both eras, an official server, and the policies of the example between them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client, ConnectMode
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.support.process import Sidecar, mcp_server, python_server, sidecar

BOT_KEY, OTHER_KEY = "key-of-the-support-bot", "key-of-another-bot"
MODES: list[ConnectMode] = ["legacy", "auto"]
DENIED_BY_DEFAULT = "Denied: no policy allows this"


def configuration(url: str) -> dict[str, Any]:
    """The example, with agents known by keys and the server at this URL."""
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for name, key in (("support-bot", BOT_KEY), ("other-bot", OTHER_KEY))
    ]
    baseline = {
        "name": "zendesk-baseline",
        "servers": ["zendesk"],
        "requests": [
            {
                "name": "no-destructive",
                "tools": ["delete_*", "merge_*"],
                "action": "deny",
                "message": "destructive tools are off",
            }
        ],
        "responses": [
            {"name": "no-cards", "detect": ["credit_card", "private_key"], "action": "block"},
            {
                "name": "contact-data",
                "detect": ["email"],
                "patterns": [r"\bCUST-[0-9]{8}\b"],
                "except": [r"@acme\.example$"],
                "action": "redact",
            },
        ],
    }
    approval = {
        "workflow": "support-leads",
        "show": ["$.ticket_id"],
        "bind": ["$.ticket_id"],
        "duration": "30m",
        "maxDuration": "4h",
        "maxUses": 20,
    }
    tickets = {
        "name": "support-bot-tickets",
        "agents": ["key:support-bot"],
        "servers": ["zendesk"],
        "mode": "enforce",
        "requests": [
            {"name": "metadata", "tools": ["search_tickets", "get_ticket_status"], "action": "allow"},
            {
                "name": "ticket-text",
                "tools": ["get_ticket"],
                "when": [{"path": "$.ticket_id", "op": "matches", "value": "[0-9]{1,12}"}],
                "action": "requireApproval",
                "approval": approval,
            },
            {
                "name": "comments",
                "resources": ["ticket://*/comments"],
                "action": "requireApproval",
                "approval": {"workflow": "support-leads"},
            },
        ],
    }
    workflow = {
        "name": "support-leads",
        "approvers": ["oidc:group:support-leads", "slack:U0123ABC", "email:lead@acme.example", "token:oncall"],
        "required": 1,
        "pendingFor": "30m",
    }
    return {
        "identity": {"agents": [{"type": "apiKey", "keys": keys}]},
        "servers": [{"name": "zendesk", "path": "/zendesk-mcp", "endpoints": [url]}],
        "policies": [baseline, tickets],
        "approvals": {"workflows": [workflow], "hold": "100ms"},
    }


@pytest.fixture(scope="module")
def gateway() -> Iterator[Sidecar]:
    """The support desk's server behind the sidecar."""
    with mcp_server("tickets", python_server("tests.fixtures.ticket_server")) as url, sidecar(configuration(url)) as it:
        yield it


@asynccontextmanager
async def agent(gateway: Sidecar, mode: ConnectMode, key: str = BOT_KEY) -> Any:
    """The SDK's client as this agent."""
    async with (
        httpx2.AsyncClient(headers={"X-API-Key": key}) as http,
        Client(streamable_http_client(f"{gateway.url}/zendesk-mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def said(client: Client, tool: str, **arguments: str) -> tuple[bool, str]:
    """Whether a call failed, and its text without what is another one each time."""
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    text = re.sub(r" \(decision [0-9a-f]{16}\)|apr_[0-9a-z]+", "", content.text)
    return bool(result.is_error), text


@pytest.mark.parametrize("mode", MODES)
async def test_the_list_shows_what_may_be_had(gateway: Sidecar, mode: ConnectMode) -> None:
    async with agent(gateway, mode) as client:
        tools = {tool.name: tool.description for tool in (await client.list_tools()).tools}
        templates = (await client.list_resource_templates()).resource_templates
    assert tools == {
        "search_tickets": "Find tickets.",
        "get_ticket_status": "Whether a ticket is open, and what its customer last wrote.",
        "get_ticket": "[requires approval] The whole ticket.",
    }
    assert [(one.uri_template, one.description) for one in templates] == [
        ("ticket://{ticket_id}/comments", "[requires approval] The comments on a ticket.")
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_contact_data_is_redacted(gateway: Sidecar, mode: ConnectMode) -> None:
    """Also in the text that says the same as the structured content; colleagues' addresses stay."""
    expected = {
        "tickets": [
            {
                "id": "101",
                "from": "[redacted:email]",
                "owner": "li@acme.example",
                "customer": "[redacted:contact-data]",
            },
            {
                "id": "102",
                "from": "[redacted:email]",
                "owner": "li@acme.example",
                "customer": "[redacted:contact-data]",
            },
        ],
        "asked": "login",
    }
    async with agent(gateway, mode) as client:
        result = await client.call_tool("search_tickets", {"text": "login"})
        assert not result.is_error
        assert result.structured_content == expected
        assert json.loads(result.content[0].text) == expected
        assert await said(client, "get_ticket_status", ticket_id="101") == (
            False,
            "open, ask [redacted:email] or li@acme.example",
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_credit_card_is_blocked(gateway: Sidecar, mode: ConnectMode) -> None:
    async with agent(gateway, mode) as client:
        failed, text = await said(client, "get_ticket_status", ticket_id="102")
    assert failed
    assert "4111 1111" not in text
    assert "no-cards" in text


@pytest.mark.parametrize("mode", MODES)
async def test_the_text_of_a_ticket_waits_for_approval(gateway: Sidecar, mode: ConnectMode) -> None:
    """It is not carried out meanwhile; what does not look like a ticket's number is not even asked about."""
    async with agent(gateway, mode) as client:
        failed, text = await said(client, "get_ticket", ticket_id="101")
        assert failed
        assert text.startswith("APPROVAL PENDING")
        assert "get_ticket" in text
        for wrong in ("101 or 1=1", "", "1234567890123", "\uff11\uff10\uff11"):
            assert await said(client, "get_ticket", ticket_id=wrong) == (True, DENIED_BY_DEFAULT)
        with pytest.raises(MCPError, match="APPROVAL PENDING"):
            await client.read_resource("ticket://101/comments")
        with pytest.raises(MCPError, match="no policy allows this"):
            await client.read_resource("ticket://101/attachments")


@pytest.mark.parametrize("mode", MODES)
async def test_destructive_tools_are_off(gateway: Sidecar, mode: ConnectMode) -> None:
    off = (True, "Denied: destructive tools are off")
    async with agent(gateway, mode) as client:
        assert await said(client, "delete_ticket", ticket_id="101") == off
        assert await said(client, "merge_tickets", ticket_id="101", into="102") == off
        assert await said(client, "delete_what_there_is_not") == off
        assert await said(client, "export_everything") == (True, DENIED_BY_DEFAULT)


@pytest.mark.parametrize("mode", MODES)
async def test_another_agent_may_not_use_the_server(gateway: Sidecar, mode: ConnectMode) -> None:
    """The baseline holds for everybody, and allows nobody anything."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a group of the SDK's task groups, whose parts are looked at
        async with agent(gateway, mode, OTHER_KEY) as client:
            await client.list_tools()
    assert "no policy allows this" in str(_causes(raised.value))


def _causes(error: BaseException) -> list[BaseException]:
    inner = getattr(error, "exceptions", ())
    return [cause for one in inner for cause in _causes(one)] or [error]


async def test_the_record_has_it_all(gateway: Sidecar) -> None:
    async with agent(gateway, "auto") as client:
        await said(client, "get_ticket", ticket_id="777")
        await said(client, "delete_ticket", ticket_id="777")
    wanted = {
        ("get_ticket", "requireApproval", "support-bot-tickets", "ticket-text"),
        ("delete_ticket", "deny", "zendesk-baseline", "no-destructive"),
    }

    def decided() -> str | None:
        calls = [line for line in gateway.records() if line["event"] == "request" and line["method"] == "tools/call"]
        found = {(line["name"], line["decision"], line["policy"], line["rule"]) for line in calls}
        return "yes" if wanted <= found else None

    gateway.running.wait_for(decided)
    written = json.dumps(gateway.records())
    assert "4111 1111" not in written  # four digits alone stand in some hash
    assert "jane@customer.example" not in written
