"""From the tree of a source to the `telemetry` of the model: the record, the export to a collector, the log."""

import re
from urllib.parse import urlsplit

import msgspec

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, choice, integer, pairs
from openmcp.config.values import file_name, secret, share, size, url
from openmcp.config.yamlsource import Mapping


class _Output(msgspec.Struct, frozen=True):
    file: str | None = None
    rotate: model.Rotation | None = None


_STDOUT = _Output()


def _output(at: At) -> _Output | None:
    if isinstance(at.node, Mapping):
        return _file(at)
    if at.text() == "stdout":
        return _STDOUT
    at.expected("stdout or {file: PATH}")
    return None


_file: Reading[_Output] = Shape(
    _Output,
    {
        "file": file_name,
        "rotate": Shape(model.Rotation, {"size": size, "keep": integer(0, 1_000_000)}, required=("size",)),
    },
    required=("file",),
)


def _audit(output: _Output = _STDOUT, **rest: object) -> model.Audit:
    return msgspec.convert({"file": output.file, "rotate": output.rotate, **rest}, model.Audit)


def _header_fault(key: str) -> str | None:
    if not re.fullmatch("[0-9a-z_.-]+", key):
        return "gRPC metadata: lower-case letters, digits and . _ -"
    if key.startswith("grpc-") or key.endswith("-bin"):
        return "names that begin with grpc- or end with -bin are gRPC's own"
    return None


def _otlp(at: At) -> model.Otlp | None:
    value = _otlp_shape(at)
    if value is None:
        return None
    parts, ca = urlsplit(value.endpoint), at.key("ca")
    given = at.key("endpoint") or at
    if parts.path not in ("", "/"):
        given.error(f'not an endpoint of OTLP over gRPC: it has the path "{parts.path}"', "host and port alone")
    elif parts.port is None:
        given.error(
            "the endpoint names no port", f"write {parts.scheme}://{parts.netloc}:4317, the port of OTLP over gRPC"
        )
    elif ca is not None and parts.scheme == "http":
        ca.error("`ca` has no meaning for an http endpoint", "write https:// in the endpoint or remove `ca`")
    else:
        return value
    return None


_otlp_shape: Reading[model.Otlp] = Shape(
    model.Otlp,
    {"endpoint": url("a collector"), "ca": secret, "headers": pairs(secret, _header_fault), "sample": share},
    required=("endpoint",),
)

telemetry: Reading[model.Telemetry] = Shape(
    model.Telemetry,
    {
        "audit": Shape(
            _audit,
            {
                "output": _output,
                "onFailure": choice(("deny", "allow")),
                "payloads": choice(("none", "redacted")),
                "signingKey": secret,
            },
        ),
        "otlp": _otlp,
        "logLevel": choice(("debug", "info", "warning", "error")),
    },
)
