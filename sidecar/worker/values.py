"""What the sidecar and its worker say to each other: MessagePack of these, each followed by `size` bytes of payload."""

from typing import Final

import msgspec

from openmcp.config.model import Policy
from openmcp.identity.principal import Principal
from openmcp.sidecar.inspection.findings import Finding
from openmcp.sidecar.types import Subject

LARGE: Final = 256 * 1024
"""Bytes from which on a message goes to the worker."""


class Rules(msgspec.Struct, frozen=True, array_like=True):
    """How a message is inspected: by the response rules that hold for `principal` on `server`, among `policies`.

    `number` stands for these policies, which are sent once. The message answers a call of `subjects`. `unseen` are
    members that are not looked at. `schemas` (JSON) are promises that a redacted `structuredContent` has to keep.
    """

    number: int
    principal: Principal
    server: str
    subjects: tuple[Subject, ...]
    unseen: tuple[str, ...] = ()
    schemas: tuple[bytes, ...] = ()
    policies: tuple[Policy, ...] | None = None


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A message to be read; the payload is its JSON, or with `event` the SSE event that holds it.

    `entries` names the member of the result whose entries are wanted whole, in batches: what a list method lists.
    """

    size: int
    event: bool = False
    entries: str = ""
    rules: Rules | None = None


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
    `findings`, `blocked` and `unfit` are the outcome of its inspection.
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
    findings: tuple[Finding, ...] = ()
    blocked: Finding | None = None
    unfit: bool = False
    name: bytes = b"message"
    id: bytes | None = None
    retry: int | None = None
