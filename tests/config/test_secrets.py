"""Secrets are read where they are used; errors name the place and never the secret."""

import base64
import os

import pytest

from openmcp.config.model import Secret
from openmcp.config.secrets import MAX_PEM, SecretError, read, read_key, read_pem

KEY = bytes(range(224, 256))


@pytest.fixture
def file(tmp_path):
    """Writes a secret and gives the reference to it."""

    def write(data: bytes) -> Secret:
        (tmp_path / "secret").write_bytes(data)
        return Secret(file=str(tmp_path / "secret"))

    return write


@pytest.mark.parametrize("data", [b"hunter2", b"hunter2\n", b"hunter2\r\n"])
def test_one_line_end_is_left_out(file, data):
    assert read(file(data)) == b"hunter2"


def test_nothing_else_is_left_out(file):
    assert read(file(b" a\n\n")) == b" a\n"


def test_the_environment(monkeypatch):
    monkeypatch.setenv("OPENMCP_TEST_SECRET", "hunter2\n")
    assert read(Secret(env="OPENMCP_TEST_SECRET")) == b"hunter2"


@pytest.mark.parametrize("encode", [base64.standard_b64encode, base64.urlsafe_b64encode])
def test_a_key(file, encode):
    assert read_key(file(encode(KEY) + b"\n")) == KEY


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"x" * 65537, "is larger than 64 KiB"),
        (b"no base 64!", "is not base64 (make one with: openssl rand -base64 32)"),
        (
            base64.b64encode(KEY[:16]),
            "holds a key of 16 bytes, 32 are wanted (make one with: openssl rand -base64 32)",
        ),
    ],
)
def test_what_is_no_key(file, data, message):
    secret = file(data)
    with pytest.raises(SecretError) as caught:
        read_key(secret)
    assert str(caught.value) == f"file {secret.file} {message}"


def test_what_is_not_there(tmp_path):
    with pytest.raises(SecretError, match="cannot be read: No such file or directory"):
        read(Secret(file=str(tmp_path / "nothing")))
    with pytest.raises(SecretError, match="environment variable OPENMCP_TEST_NOTHING is not set"):
        read(Secret(env="OPENMCP_TEST_NOTHING"))


@pytest.mark.parametrize("read", [read, read_pem])
def test_what_never_ends_is_not_waited_for(tmp_path, read):
    """A pipe to which nobody writes; `/dev/stdout` of a container is one as well."""
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(SecretError, match=f"^{path} is not a file that can be read as a whole$"):
            read(Secret(file=path))


def test_certificates_have_room_and_a_limit(file):
    assert read_pem(file(b"x" * 1_000_000)) == b"x" * 1_000_000
    secret = file(b"x" * (MAX_PEM + 1))
    with pytest.raises(SecretError, match="is larger than 16384 KiB"):
        read_pem(secret)
