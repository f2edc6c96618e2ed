"""Objects of an API server in memory, behind the methods of `config.kubernetes.api.Api`: versions and conflicts as
there, nothing of schemas and rights. Tests in tests/real do the same with a real one."""

import copy
import itertools
from typing import Any

from openmcp.config.kubernetes.api import JSON_PATCH, ApiError, ApiUnreachable

Json = dict[str, Any]


class Objects:
    """By their paths. `cut` makes it unreachable; `before_write` is called before each write, with its path."""

    def __init__(self) -> None:
        self.found: dict[str, Json] = {}
        self.writes: list[tuple[str, str]] = []
        self.cut = False
        self.before_write = lambda path: None
        self._versions = itertools.count(1)

    def put(self, path: str, value: Json) -> None:
        """Have an object there, whoever wrote it."""
        stored = copy.deepcopy(value)
        stored.setdefault("metadata", {})["resourceVersion"] = str(next(self._versions))
        self.found[path] = stored

    async def get(self, path: str, params: object = None) -> Json:
        """See Api."""
        if self.cut:
            raise ApiUnreachable("cut off")
        if path not in self.found:
            raise ApiError(404, "NotFound", f"{path} not found")
        return copy.deepcopy(self.found[path])

    async def create(self, path: str, body: Json, params: object = None) -> Json:
        """See Api."""
        whole = f"{path}/{body['metadata']['name']}"
        self._begin("create", whole)
        if whole in self.found:
            raise ApiError(409, "AlreadyExists", f"{whole} exists")
        self.put(whole, body)
        return await self.get(whole)

    async def replace(self, path: str, body: Json, params: object = None) -> Json:
        """See Api."""
        self._begin("replace", path)
        self._same(path, body.get("metadata", {}).get("resourceVersion"))
        self.put(path, body)
        return await self.get(path)

    async def patch(self, path: str, body: Any, *, content_type: str = "", subresource: str = "") -> Json:
        """See Api."""
        self._begin("patch", f"{path}/{subresource}" if subresource else path)
        changed = await self.get(path)
        if content_type == JSON_PATCH:
            for step in body:
                _step(changed, step)
        else:
            _merge(changed, body)
        self._same(path, changed["metadata"].get("resourceVersion"))
        self.put(path, changed)
        return await self.get(path)

    def _begin(self, verb: str, path: str) -> None:
        self.before_write(path)
        if self.cut:
            raise ApiUnreachable("cut off")
        self.writes.append((verb, path.rpartition("/")[2]))

    def _same(self, path: str, version: object) -> None:
        if version is not None and version != self.found[path]["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", f"{path} has been modified")


def _merge(into: Json, change: Json) -> None:
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _step(value: Any, step: Json) -> None:
    *way, last = step["path"].split("/")[1:]
    for part in way:
        value = value[int(part) if isinstance(value, list) else part]
    if step["op"] == "test":
        assert value[last] == step["value"]
    else:
        value[last] = step["value"]
