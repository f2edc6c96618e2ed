"""Reading secrets where they are used: from a file or the environment, never from the configuration itself."""

import base64
import binascii
import os
from pathlib import Path

from openmcp.config.model import Secret

MAX_BYTES = 64 * 1024
"""More than any key or token; certificates of a CA are read elsewhere, by name."""


class SecretError(Exception):
    """A secret cannot be had. The text names the file or variable, never what is in it."""


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
    if source.file is None:
        return read(source)
    try:
        return Path(source.file).read_bytes()
    except OSError as error:
        raise SecretError(f"file {source.file} cannot be read: {error.strerror}") from error


def _from_file(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            value = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"file {file} cannot be read: {error.strerror}") from error
    if len(value) > MAX_BYTES:
        raise SecretError(f"file {file} is larger than {MAX_BYTES // 1024} KiB")
    return value


def _from_environment(variable: str | None) -> bytes:
    value = os.environb.get((variable or "").encode())
    if value is None:
        raise SecretError(f"environment variable {variable} is not set")
    return value
