"""What a client can be asked by a server, as it declared: `elicitation`, `elicitation.url`, `sampling.tools`, ...

Source: schema of 2025-11-25 and 2026-07-28, `ClientCapabilities`; "Servers MUST NOT send" what was not declared.
"""

from typing import Any, Final

from openmcp.sidecar.mcp.methods import SERVER_REQUESTS
from openmcp.sidecar.types import JsonObject

_PARTS: Final = {"sampling": ("tools",), "elicitation": ("url",)}
"""Capabilities inside of capabilities that a question may need."""


def declared(capabilities: object) -> tuple[str, ...]:
    """The names of what a `capabilities` object declares, as far as questions need them, in alphabetical order."""
    if type(capabilities) is not dict:
        return ()
    named = [name for name in SERVER_REQUESTS.values() if name and name in capabilities]
    for name in tuple(named):
        inner: Any = capabilities[name]
        if type(inner) is dict:
            named += [f"{name}.{part}" for part in _PARTS.get(name, ()) if part in inner]
            if name == "elicitation" and "url" in inner and "form" not in inner:
                named.remove(name)  # which stands for forms: what it declares otherwise
    return tuple(sorted(named))


def needed(method: object, params: JsonObject) -> str | None:
    """What must have been declared for this question; empty: nothing; None: no question that a server may put."""
    name = SERVER_REQUESTS.get(method) if type(method) is str else None
    if name == "sampling" and ("tools" in params or "toolChoice" in params):
        return "sampling.tools"
    if name == "elicitation" and params.get("mode", "form") != "form":
        return "elicitation.url" if params["mode"] == "url" else None
    return name
