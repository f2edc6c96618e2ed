"""The lines that a user may copy while the demo stays up."""

import json
import shlex
from collections.abc import Iterator
from typing import Final

from openmcp.sidecar.demo.setting import AGENT, Setting
from openmcp.sidecar.demo.story import NEWEST

META: Final = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def invitations(setting: Setting) -> Iterator[tuple[str, str]]:
    """What one can do, and the lines for it."""
    configuration, record = (shlex.quote(str(path)) for path in (setting.configuration, setting.record))
    yield "Call a tool, as the agent does", _curl(setting, "get_ticket", number="1")
    yield "Try to delete one", _curl(setting, "delete_ticket", number="1")
    yield (
        "Change the policy: it is taken over at once, and the last call goes through",
        f"sed -i.old 's/action: deny/action: allow/' {configuration}",
    )
    yield "Watch the record (a table of it is below)", f"tail -f {record}"
    yield "See whether the sidecar is ready, and its metrics", _gets(setting.admin, "/readyz", "/metrics")


def _gets(base: str, *paths: str) -> str:
    return "\n".join(f"curl -s {base}{path}" for path in paths)


def _curl(setting: Setting, tool: str, **arguments: str) -> str:
    headers = (
        f"X-API-Key: {setting.keys[AGENT]}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {NEWEST}",
        "Mcp-Method: tools/call",
        f"Mcp-Name: {tool}",
    )
    meta = _json(META)
    body = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{',
        f'  "name":{_json(tool)},"arguments":{_json(arguments)},"_meta":{{',
        *(f"  {part}" for part in meta[1:-1].replace(',"', ',\n"').splitlines()),
        "}}}",
    )
    lines = [f"curl -s {setting.url}", *(f"  -H {shlex.quote(header)}" for header in headers)]
    return " \\\n".join([*lines, "  -d " + shlex.quote("\n".join(body))])


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
