"""Reading secrets where they are used: from a file or the environment, never from the configuration itself."""

import base64
import binascii
import os
import stat
from collections.abc import Iterator

import msgspec

from openmcp.config.model import Secret

MAX_BYTES = 64 * 1024
"""More than any key or token."""
MAX_PEM = 16 * 1024 * 1024
"""More than all CAs of a system, and less than what memory there is."""


class SecretError(Exception):
    """A secret cannot be had. The text names the file or variable, never what is in it."""


def secrets_in(value: object) -> Iterator[Secret]:
    """All secrets and certificates that a configuration, or a part of one, refers to."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from secrets_in(getattr(value, field))
    elif isinstance(value, tuple):
        for item in value:
            yield from secrets_in(item)


def name(secret: Secret) -> str:
    """Where a secret comes from, for messages."""
    return f"file {secret.file}" if secret.file is not None else f"environment variable {secret.env}"


def read(secret: Secret) -> bytes:
    """The bytes of a secret now, without one line end behind them. Raises SecretError; blocks on a file."""
    value = _from_file(secret.file) if secret.file is not None else _from_environment(secret.env)
    if value.endswith(b"\n"):
        value = value[:-1].removesuffix(b"\r")
    if not value:
        raise SecretError(f"{name(secret)} is empty")
    return value


def read_key(secret: Secret, size: int = 32) -> bytes:
    """A key of `size` bytes that is kept as base64, standard or URL-safe alphabet. Raises SecretError."""
    text = read(secret)
    hint = f"make one with: openssl rand -base64 {size}"
    try:
        key = base64.b64decode(text.replace(b"-", b"+").replace(b"_", b"/"), validate=True)
    except binascii.Error as error:
        raise SecretError(f"{name(secret)} is not base64 ({hint})") from error
    if len(key) != size:
        raise SecretError(f"{name(secret)} holds a key of {len(key)} bytes, {size} are wanted ({hint})")
    return key


def read_pem(source: Secret) -> bytes:
    """Certificates, which take more room than a secret. Raises SecretError; blocks on a file."""
    return read(source) if source.file is None else _from_file(source.file, MAX_PEM)


def _from_file(file: str, limit: int = MAX_BYTES) -> bytes:
    try:
        with open(file, "rb", opener=_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SecretError(f"{file} is not a file that can be read as a whole")
            value = stream.read(limit + 1)
    except OSError as error:
        raise SecretError(f"file {file} cannot be read: {error.strerror}") from error
    if len(value) > limit:
        raise SecretError(f"file {file} is larger than {limit // 1024} KiB")
    return value


def _at_once(file: str, flags: int) -> int:
    """As `os.open`, without waiting for the other end of a pipe: nobody may ever come."""
    return os.open(file, flags | os.O_NONBLOCK)


def _from_environment(variable: str | None) -> bytes:
    value = os.environb.get((variable or "").encode())
    if value is None:
        raise SecretError(f"environment variable {variable} is not set")
    return value
