"""Trust on first sight: what a tool says of itself is pinned when first seen, and a tool that changed is withheld.

A server that was honest when somebody looked at it may rewrite a tool's description later, to steer the agents that
read it (a "rug pull"). Where `servers[].pinTools` is set, a changed tool is neither listed nor called until an operator
accepts it (`openmcp pins accept`, or the digest in the configuration), or the server takes the change back. What is
pinned: name, title, description, input and output schema, annotations.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from openmcp.config.model import PinTools, Server
from openmcp.sidecar.stages.pinfile import PinFile, Pinned
from openmcp.sidecar.types import JsonObject

MEMBERS: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
MAX_TOOLS: Final = 4096
"""Tools pinned per server; a server that invents more has the rest withheld."""
WITHHELD: Final = "the definition of this tool changed since it was pinned; an operator has to accept it first"
_log = logging.getLogger("openmcp.pins")

Report = Callable[[str, str, str], None]
"""Told once of each change: the server, the tool, and what changed in words."""


class Pins:
    """The definitions of all servers' tools as they were first seen, across reloads of the configuration."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stores: dict[str, _Store] = {}

    def admits(self, server: Server, entry: JsonObject) -> bool:
        """Whether a tool of a list may be shown: it is new (and pinned by this), or as it was."""
        if server.pin_tools is None:
            return True
        return self._store(server, server.pin_tools).admits(entry, self._report)

    def withheld(self, server: Server, tool: str) -> bool:
        """Whether a tool may not be called, since it was seen changed."""
        if server.pin_tools is None:
            return False
        return self._store(server, server.pin_tools).withheld(tool)

    def save(self, server: Server) -> None:
        """Keep what was seen, where the configuration names a file for it; to be called once per list."""
        store = self._stores.get(server.name)
        if store is not None:
            store.save()

    def count(self, server: str) -> int:
        """How many tools of a server are withheld."""
        store = self._stores.get(server)
        return store.count() if store is not None else 0

    def _store(self, server: Server, wanted: PinTools) -> "_Store":
        known = self._stores.get(server.name)
        if known is None or known.wanted != wanted:
            known = self._stores[server.name] = _Store(server.name, wanted, known)
        return known


class _Store:
    """The pins of one server."""

    def __init__(self, server: str, wanted: PinTools, before: "_Store | None") -> None:
        self.wanted = wanted
        self._server = server
        self._configured = dict(wanted.tools)
        self._tools: dict[str, Pinned] = dict(before._tools) if before is not None else {}
        self._unsaved: dict[str, Pinned] = dict(self._tools)
        self._file = PinFile(Path(wanted.file), server) if wanted.file is not None else None
        self._unreadable = False
        self._read()

    def admits(self, entry: JsonObject, report: Report) -> bool:
        name = entry.get("name")
        if type(name) is not str:
            return False
        definition = _definition(entry)
        seen = hashlib.sha256(definition).hexdigest()
        known = self._tools.get(name)
        if known is not None and known.seen == seen and self._trusts(name, known) and not self._unreadable:
            return True
        if known is None and len(self._tools) >= MAX_TOOLS:
            return False
        self._read()  # it may have been accepted by now
        return self._notice(name, seen, definition.decode(), report) and not self._unreadable

    def withheld(self, tool: str) -> bool:
        known = self._tools.get(tool)
        if not self._unreadable and (known is None or self._trusts(tool, known)):
            return False
        self._read()
        known = self._tools.get(tool)
        return self._unreadable or (known is not None and not self._trusts(tool, known))

    def count(self) -> int:
        return sum(not self._trusts(name, known) for name, known in self._tools.items())

    def save(self) -> None:
        if self._file is None or not self._unsaved:
            return
        try:
            self._tools |= self._file.merge(self._unsaved)
        except (OSError, ValueError) as error:
            _log.error("%s: the pins of %s cannot be kept: %s", self._file.path, self._server, error)
        else:
            self._unsaved.clear()

    def _trusts(self, name: str, known: Pinned) -> bool:
        return self._configured.get(name, known.pinned) == known.seen

    def _notice(self, name: str, seen: str, definition: str, report: Report) -> bool:
        before = self._tools.get(name)
        if before is None:
            now = Pinned(seen, definition, seen, definition)
        else:
            now = Pinned(before.pinned, before.definition, seen, definition)
        trusted = self._trusts(name, now)
        if now != before:
            self._tools[name] = self._unsaved[name] = now
            if not trusted:
                what = _difference(now)
                _log.warning("%s: the tool %.100r changed (%s) and is withheld", self._server, name, what)
                report(self._server, name, what)
        return trusted

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            found = self._file.changed()
        except (OSError, ValueError) as error:
            if not self._unreadable:
                _log.error("%s: unreadable, the tools of %s are withheld: %s", self._file.path, self._server, error)
            self._unreadable = True  # what was pinned is not known: nothing can be trusted
            return
        self._unreadable = False
        if found is not None:
            self._tools |= found
            for name in found.keys() & self._unsaved.keys():
                if self._unsaved[name] == found[name]:
                    del self._unsaved[name]


def digest(entry: JsonObject) -> str:
    """The SHA-256 (hexadecimal) of what a tool says of itself, whatever the order of its members."""
    return hashlib.sha256(_definition(entry)).hexdigest()


def _definition(entry: JsonObject) -> bytes:
    said = {member: entry[member] for member in MEMBERS if member in entry}
    try:
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _difference(now: Pinned) -> str:
    old, new = orjson.loads(now.definition), orjson.loads(now.offered)
    changed = [member for member in MEMBERS if old.get(member) != new.get(member)]
    return ", ".join(changed) or "it is not what the configuration pins"
