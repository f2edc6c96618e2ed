"""What the demo is played in: keys, ports and a gateway.yaml, in a folder that ends with it."""

import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from openmcp.sidecar.demo.children import Failed

SERVER: Final = "tickets"
AGENT: Final = "support-bot"
OLD_AGENT: Final = "night-bot"
PAGE_SECONDS: Final = 0.3
"""What a page of the export takes, so that one can see that progress arrives while the call is under way."""

CONFIGURATION: Final = Template("""\
apiVersion: openmcp.dev/v1alpha1

listen:
  mcp: 127.0.0.1:$mcp         # agents call http://127.0.0.1:$mcp/tickets
  admin: 127.0.0.1:$admin       # /healthz /readyz /metrics

identity:
  agents:
    - type: apiKey             # only the digests of the keys are kept here
      keys:
        - name: support-bot
          sha256: $agent_digest
        - name: night-bot
          sha256: $old_agent_digest

servers:
  - name: tickets
    endpoints: ["http://127.0.0.1:$server/mcp"]

# Deny wins; what no rule allows is denied and does not show in lists.
policies:
  - name: everybody            # no `agents`: holds for every agent
    servers: [tickets]
    requests:
      - name: no-deleting
        tools: ["delete_*"]
        action: deny
        message: deleting tickets is left to people
    responses:
      - name: contact-data       # what comes back is looked at, too
        detect: [email]
        except: ['@acme\\.example$$']
        action: redact

  - name: support
    agents: ["key:support-bot"]
    servers: [tickets]
    requests:
      - name: daily-work
        tools: ["search_*", "get_*", "export_*", "delete_*"]
        action: allow
      - name: money
        tools: [refund]
        when: [{path: $$.amount, op: lte, value: 100}]
        action: requireApproval
        approval:                # for this ticket and amount, not for long
          workflow: leads
          show: [$$.number, $$.amount]
          bind: [$$.number, $$.amount]
          duration: 8s

  - name: night-shift
    agents: ["key:night-bot"]
    servers: [tickets]
    requests:
      - name: look-up
        tools: ["search_*"]
        action: allow

approvals:
  console: {listen: 127.0.0.1:$console}
  tokens: [{name: lead, sha256: $lead_digest}]
  workflows: [{name: leads, approvers: ["token:lead"]}]
  hold: 0s                   # who wants no progress is told at once
  holdWithProgress: 2m

state: {type: sqlite, path: approvals.db}

telemetry:
  audit: {output: {file: audit.jsonl}}
""")


@dataclass(frozen=True)
class Setting:
    """Where everything is. `keys` are the API keys of the two agents by name, `token` is what the approver
    logs in with."""

    folder: Path
    server_port: int
    mcp_port: int
    admin_port: int
    console_port: int
    keys: dict[str, str]
    token: str

    @property
    def configuration(self) -> Path:
        """The gateway.yaml."""
        return self.folder / "gateway.yaml"

    @property
    def record(self) -> Path:
        """The record that the sidecar writes."""
        return self.folder / "audit.jsonl"

    @property
    def server_url(self) -> str:
        """The MCP server itself."""
        return f"http://127.0.0.1:{self.server_port}/mcp"

    @property
    def url(self) -> str:
        """The same server behind the sidecar: what agents are given."""
        return f"http://127.0.0.1:{self.mcp_port}/{SERVER}"

    @property
    def console(self) -> str:
        """Where approvers decide."""
        return f"http://127.0.0.1:{self.console_port}"

    @property
    def admin(self) -> str:
        """The sidecar's own endpoints."""
        return f"http://127.0.0.1:{self.admin_port}"


def prepare(folder: Path, port: int | None) -> Setting:
    """Choose keys and free ports (`port` for the agents, where it is given) and write the gateway.yaml.

    Raises Failed where that port is not to be had.
    """
    mcp, admin, server, console = _ports(port)
    keys = {name: f"{name}-{secrets.token_hex(6)}" for name in (AGENT, OLD_AGENT)}
    made = Setting(folder, server, mcp, admin, console, keys, f"lead-{secrets.token_hex(6)}")
    text = CONFIGURATION.substitute(
        mcp=made.mcp_port,
        admin=made.admin_port,
        server=made.server_port,
        console=made.console_port,
        lead_digest=_digest(made.token),
        agent_digest=_digest(keys[AGENT]),
        old_agent_digest=_digest(keys[OLD_AGENT]),
    )
    made.configuration.write_text(text, encoding="utf-8")
    return made


def shown(text: str) -> str:
    """The configuration as it is shown: with its digests shortened."""
    return re.sub(r"\b([0-9a-f]{16})[0-9a-f]{48}\b", r"\1...", text)


def _ports(wanted: int | None) -> list[int]:
    """Four loopback ports that nobody listens on right now; the first is the one that is wanted."""
    sockets: list[socket.socket] = []
    try:
        for port in (wanted or 0, 0, 0, 0):
            sockets.append(socket.create_server(("127.0.0.1", port)))
        return [int(each.getsockname()[1]) for each in sockets]
    except OSError as error:
        raise Failed(
            f"port {wanted or 0} of 127.0.0.1 cannot be had: {os.strerror(error.errno or 0)} (--port takes another)"
        ) from None
    finally:
        for each in sockets:
            each.close()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
