"""Records written for tests: real files by the real writer, with a key of their own."""

import functools
from pathlib import Path

from openmcp.config.model import Rotation
from openmcp.sidecar.telemetry.output import Output
from openmcp.sidecar.telemetry.signing import Signer, Verifier, generate
from openmcp.sidecar.telemetry.verify import Check, Report
from openmcp.sidecar.telemetry.writer import Writer


@functools.cache
def keys() -> tuple[bytes, bytes]:
    """A private key and its public one, PEM."""
    return generate()


def line(number: int, text: str = "x" * 40) -> bytes:
    """A line as the recorder gives it."""
    return b'{"time":"2026-07-28T09:30:00.123456Z","event":"request","n":%d,"text":"%b"}' % (number, text.encode())


def write(
    path: Path, count: int, *, signed: bool = True, rotation: Rotation | None = None, killed: bool = False
) -> None:
    """One process writes this many lines; `killed`: it does not come to its last checkpoint."""
    output = Output(path)
    writer = Writer(output, rotation, Signer(keys()[0]) if signed else None)
    writer.open()
    for number in range(count):
        writer.add([line(number)])
        finish(writer)
    if not killed:
        writer.close()
        finish(writer)
    output.close()


def finish(writer: Writer) -> None:
    """Write what there is."""
    while not writer.step(0.0):
        pass


def check(*files: Path, live: bool = False, key: bytes | None = None) -> Report:
    """Verify files in this order."""
    it = Check(Verifier([key]) if key is not None else None, live=live)
    for file in files:
        with file.open("rb") as stream:
            it.read(file.name, stream)
    return it.finish()
