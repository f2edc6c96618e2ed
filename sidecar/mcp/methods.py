"""The methods of MCP by era and direction, and what each one touches.

Source: schema/<revision>/schema.ts of the MCP specification. A method that is not listed is answered with
-32601, a notification that is not listed is dropped and recorded.
"""

from typing import Final

from openmcp.sidecar.types import LEGACY, MODERN, PROMPT, RESOURCE, TOOL, Era

_SHARED: Final = frozenset(
    (
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "tasks/get",
        "tasks/cancel",
    )
)
CLIENT_REQUESTS: Final = {
    LEGACY: _SHARED
    | {
        "initialize",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "logging/setLevel",
        "tasks/result",
        "tasks/list",
    },
    MODERN: _SHARED | {"server/discover", "subscriptions/listen", "tasks/update"},
}
CLIENT_NOTIFICATIONS: Final[dict[Era, frozenset[str]]] = {
    LEGACY: frozenset(
        (
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/progress",
            "notifications/roots/list_changed",
            "notifications/tasks/status",
        )
    ),
    MODERN: frozenset(),
}
"""Of 2026-07-28 none: over HTTP the end of its stream cancels a request. A server that heeds a cancellation could take
it for one of another agent's request, since it has one client, the gateway, and the ids are those of all agents."""
SERVER_REQUESTS: Final = {
    "ping": "",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
    "elicitation/create": "elicitation",
}
"""Legacy server-to-client requests, and the capability that the client must have declared for each."""

SERVER_NOTIFICATIONS: Final = {
    LEGACY: frozenset(
        (
            "notifications/message",
            "notifications/progress",
            "notifications/cancelled",
            "notifications/resources/updated",
            "notifications/resources/list_changed",
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/elicitation/complete",
            "notifications/tasks/status",
        )
    ),
    MODERN: frozenset(("notifications/message", "notifications/progress")),
}
"""What may come on the stream of a request, and of a legacy session."""

SUBSCRIBED_NOTIFICATIONS: Final = frozenset(
    (
        "notifications/subscriptions/acknowledged",
        "notifications/cancelled",
        "notifications/resources/updated",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/tasks",
    )
)
"""What may come on the stream of subscriptions/listen (2026-07-28 basic/patterns/subscriptions; tasks extension)."""

NAMED: Final = {
    "tools/call": (TOOL, "name"),
    "prompts/get": (PROMPT, "name"),
    "resources/read": (RESOURCE, "uri"),
    "resources/subscribe": (RESOURCE, "uri"),
    "resources/unsubscribe": (RESOURCE, "uri"),
}
"""Methods that name what they touch, and the member of `params` that holds the name."""

HEADER_NAMED: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Modern methods whose name is mirrored in `Mcp-Name`."""

LISTS: Final = {
    "tools/list": ("tools", TOOL, "name"),
    "prompts/list": ("prompts", PROMPT, "name"),
    "resources/list": ("resources", RESOURCE, "uri"),
    "resources/templates/list": ("resourceTemplates", RESOURCE, "uriTemplate"),
}
"""List methods: the member of the result, and the kind and key of its entries."""

BASIC: Final = frozenset(
    (
        "initialize",
        "ping",
        "server/discover",
        "logging/setLevel",
        "subscriptions/listen",
        "tasks/get",
        "tasks/result",
        "tasks/list",
        "tasks/cancel",
        "tasks/update",
        *LISTS,
        *CLIENT_NOTIFICATIONS[LEGACY],
    )
)
"""Methods open to every agent that may use the server at all; what they show or touch is judged by itself."""

REPEATABLE: Final = frozenset(("initialize", "ping", "server/discover", "resources/read", "prompts/get", *LISTS))
"""Methods without effect on the server: safe to send a second time when the first got no answer."""

INPUT_REQUIRED: Final = frozenset(("tools/call", "prompts/get", "resources/read"))
"""Modern methods whose result may ask for input (MRTR)."""
