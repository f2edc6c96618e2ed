"""Tasks that servers made for agents: who may ask for one, and where it lives.

Source: 2025-11-25 basic/utilities/tasks; extension io.modelcontextprotocol/tasks. A task is known from the result that
made it; an unknown one and another agent's are answered alike (-32602).
"""

from typing import Final, NamedTuple

from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.types import JsonObject

MAX_TASKS: Final = 10_000
"""Tasks remembered; beyond that the oldest of whoever has most is forgotten, and then unknown."""
MANY: Final = 1000
"""Whoever has so many, and comes with another one, is not compared with the others first."""
MAX_TASK_ID: Final = 1024
"""Characters of a task id; a longer one is not remembered, and so unknown."""
METHODS: Final = frozenset(("tasks/get", "tasks/result", "tasks/cancel", "tasks/update"))


class Owner(NamedTuple):
    """Whose a task is: the principal, the tool that made it, and the key of the endpoint that runs it."""

    principal: str
    tool: str
    endpoint: str


class Tasks:
    """The tasks of all servers, by server name and task id."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], Owner] = {}
        self._of: dict[str, dict[tuple[str, str], None]] = {}

    def remember(self, server: str, result: JsonObject, principal: str, tool: str, endpoint: str) -> None:
        """Note the task that a result announces, if it announces one, with its owner."""
        identifier = _announced(result)
        if identifier is None or (server, identifier) in self._owners:
            return
        if len(self._owners) >= MAX_TASKS:
            own = self._of.get(principal, {})
            most = own if len(own) >= MANY else max(self._of.values(), key=len)
            self._forget(next(iter(most)))
        self._owners[server, identifier] = Owner(principal, tool, endpoint)
        self._of.setdefault(principal, {})[server, identifier] = None

    def _forget(self, task: tuple[str, str]) -> None:
        whose = self._owners.pop(task).principal
        own = self._of[whose]
        del own[task]
        if not own:
            del self._of[whose]

    def owner(self, server: str, principal: str, params: JsonObject) -> Owner:
        """The owner of `params.taskId`, who must be `principal`; raises `Refused` (-32602) otherwise."""
        identifier = params.get("taskId")
        owner = self._owners.get((server, identifier)) if type(identifier) is str else None
        if owner is None or owner.principal != principal:
            raise Refused(400, INVALID_PARAMS, "params.taskId is not a task of this agent", reason="foreign_task")
        return owner

    def tool(self, server: str, principal: str, identifier: object) -> str:
        """The tool that made a task of this agent; empty where there is no such task."""
        owner = self._owners.get((server, identifier)) if type(identifier) is str else None
        return owner.tool if owner is not None and owner.principal == principal else ""

    def owned(self, server: str, principal: str, identifier: object) -> bool:
        """Whether a task is one of this agent's."""
        owner = self._owners.get((server, identifier)) if type(identifier) is str else None
        return owner is not None and owner.principal == principal


def _announced(result: JsonObject) -> str | None:
    """The task id of a CreateTaskResult of either era."""
    task = result.get("task")
    if type(task) is not dict and result.get("resultType") != "task":
        return None
    identifier = (task if type(task) is dict else result).get("taskId")
    return identifier if type(identifier) is str and len(identifier) <= MAX_TASK_ID else None
