"""The chain that the lines of the record form: each is numbered and carries a hash over itself and all before it.

    {"time":...,"event":"request",...,"seq":7,"chain":"<64 hexadecimal digits>"}

`chain` is SHA-256 over the previous line's value (32 bytes; of the very first line: zeros) and the bytes of this line
before `,"chain":`. A line that was changed, dropped, doubled or moved does not fit any more. Who can write the file
could compute all values anew; that shows only where checkpoints are signed (Ed25519) by a key that he does not have.

A checkpoint is a line too (`"event":"checkpoint"`). Its `kind` is `start` (a process begins to write), `continued`
(the same process, in its next file), `interval`, `rotation` (the last line of a file) or `stop` (the last line of a
process). The first two name the line that they follow in `previous`: it is in another file or of another process.
"""

import hashlib
from binascii import hexlify
from collections import deque
from typing import Final, NamedTuple, Protocol

import msgspec

from openmcp.sidecar.telemetry.records import encode
from openmcp.sidecar.telemetry.values import Checkpoint, Torn

GENESIS: Final = bytes(32)
START: Final = "start"
CONTINUED: Final = "continued"
INTERVAL: Final = "interval"
ROTATION: Final = "rotation"
STOP: Final = "stop"
OPENING: Final = frozenset((START, CONTINUED))
CLOSING: Final = frozenset((ROTATION, STOP))
_CHAIN: Final = b',"chain":"'
_CHAIN_BYTES: Final = len(_CHAIN) + 64 + len(b'"}')
_SEQ: Final = b',"seq":'
_SIGNATURE: Final = b',"signature":"'
_SIGNATURE_BYTES: Final = len(_SIGNATURE) + 88 + len(b'"')
_DOMAIN: Final = b"openmcp record checkpoint v1\n"


class Head(NamedTuple):
    """How far a chain has come: the number of its last line and that line's value."""

    seq: int
    value: bytes


class Link(NamedTuple):
    """A line that claims to be part of a chain. `body` is what its own hash is over."""

    seq: int
    value: bytes
    body: bytes

    def follows(self, value: bytes) -> bool:
        """Whether this line is the next after one with this value."""
        return hashlib.sha256(value + self.body).digest() == self.value


class Signs(Protocol):
    """Who signs checkpoints."""

    key_id: str

    def sign(self, statement: bytes) -> str:
        """The signature of a statement, base64 of 64 bytes."""


class Chain:
    """The state of a chain that is being written."""

    __slots__ = ("seq", "value")

    def __init__(self, head: Head | None = None) -> None:
        self.seq = head.seq if head is not None else 0
        self.value = head.value if head is not None else GENESIS

    @property
    def head(self) -> Head:
        """Where the chain is now."""
        return Head(self.seq, self.value)

    def move(self, head: Head) -> None:
        """Go back to where the chain was."""
        self.seq, self.value = head

    def link_some(self, lines: deque[bytes], room: int) -> tuple[list[bytes], list[bytes]]:
        """Take lines as long as what they become leaves some of `room` bytes, at least one: as given, as written."""
        taken: list[bytes] = []
        linked: list[bytes] = []
        while lines and (room > 0 or not taken):
            line = lines.popleft()
            taken.append(line)
            written = self.link(line)
            linked.append(written)
            room -= len(written)
        return taken, linked

    def link(self, line: bytes) -> bytes:
        """The line as it is written, with its line end. `line` is a JSON object with at least one member."""
        seq = self.seq + 1
        body = b'%b,"seq":%d' % (line[:-1], seq)
        value = hashlib.sha256(self.value + body).digest()
        self.seq = seq
        self.value = value
        return b'%b,"chain":"%b"}\n' % (body, hexlify(value))

    def checkpoint(self, kind: str, time: str, signer: Signs | None, torn: Torn | None = None) -> bytes:
        """A checkpoint as it is written; `time` is a timestamp of the record."""
        fields: dict[str, object] = {"time": time, "event": "checkpoint", "kind": kind}
        if kind in OPENING and self.seq:
            fields["previous"] = {"seq": self.seq, "chain": self.value.hex()}
        if torn is not None:
            fields["torn"] = {"bytes": torn.bytes, "sha256": torn.sha256}
        if signer is None:
            return self.link(encode(fields))
        fields["key"] = signer.key_id
        line = encode(fields)
        signature = signer.sign(statement(self.value, self.seq + 1, line[:-1]))
        return self.link(b'%b,"signature":"%b"}' % (line[:-1], signature.encode()))


def statement(value: bytes, seq: int, unsigned: bytes) -> bytes:
    """What the signature of a checkpoint is over: all lines before it (by their last value) and its own members."""
    return _DOMAIN + value + seq.to_bytes(8, "big") + unsigned


def parse(line: bytes) -> Link | None:
    """What a line (without its line end) claims of its place, or None where it has none in any chain."""
    body, chain = line[:-_CHAIN_BYTES], line[-_CHAIN_BYTES:]
    members, found, seq = body.rpartition(_SEQ)
    if not (found and members.startswith(b"{") and chain.startswith(_CHAIN) and chain.endswith(b'"}')):
        return None
    digits = chain[len(_CHAIN) : -2]
    if not (seq.isdigit() and len(seq) < 19) or digits.strip(b"0123456789abcdef"):
        return None
    return Link(int(seq), bytes.fromhex(digits.decode()), body)


def checkpoint_of(link: Link) -> Checkpoint | None:
    """The checkpoint that a line is, or None where it is another line (or not a proper checkpoint)."""
    if b'"event":"checkpoint"' not in link.body[:80]:
        return None
    try:
        return msgspec.json.decode(link.body + b"}", type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def signed_part(link: Link) -> bytes | None:
    """The members of a checkpoint that its signature is over, or None where it has no signature at its end."""
    members = link.body.rpartition(_SEQ)[0]
    unsigned, signature = members[:-_SIGNATURE_BYTES], members[-_SIGNATURE_BYTES:]
    return unsigned if signature.startswith(_SIGNATURE) and signature.endswith(b'"') else None


def torn(fragment: bytes) -> Torn:
    """Tell the beginning of a line by its length and hash."""
    return Torn(len(fragment), hashlib.sha256(fragment).hexdigest())
