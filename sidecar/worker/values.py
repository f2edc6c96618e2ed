"""What the sidecar and its worker say to each other: MessagePack of these, each followed by `size` bytes of payload."""

from typing import Final

import msgspec

from openmcp.identity.principal import Principal
from openmcp.sidecar.types import Subject

LARGE: Final = 256 * 1024
"""Bytes from which on a message goes to the worker."""


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A message to be read; the payload is its JSON, or with `event` the SSE event that holds it.

    `entries` names the member of the result whose entries are wanted whole, in batches: what a list method lists.
    """

    size: int
    event: bool = False
    entries: str = ""
    principal: Principal | None = None
    server: str = ""
    subjects: tuple[Subject, ...] = ()


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """A value that was left out, and null put in its place: at `path`, its JSON in so many bytes from `start` on."""

    path: tuple[str | int, ...]
    start: int
    size: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Some JSON in the reply's payload, and what was left out of it."""

    start: int
    size: int
    cuts: tuple[Cut, ...] = ()


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A message that was read, and the parts of it to look at; `kind` is request, notification or response.

    Without a kind there is none: `failure` says why it could not be read, `malformed` that it was no valid message
    (else it is too large to be judged); an SSE event (whose `name`, `id` and `retry` these are) may also hold none.
    Where it is `canonical`, the message lies in what came, so many bytes (`length`) from `start` on, and its cuts too;
    else those are in the payload. `head` is the message without the entries of its `list`; they come in `batches`.
    """

    size: int = 0
    failure: str = ""
    malformed: bool = False
    kind: str = ""
    canonical: bool = False
    start: int = 0
    length: int = 0
    head: Part = Part(0, 0)
    list: str = ""
    batches: tuple[Part, ...] = ()
    name: bytes = b"message"
    id: bytes | None = None
    retry: int | None = None
