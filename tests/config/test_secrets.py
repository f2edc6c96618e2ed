"""Secrets are read where they are used; errors name the place and never the secret."""

import base64

import pytest

from openmcp.config.model import Secret
from openmcp.config.secrets import SecretError, read, read_key

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
