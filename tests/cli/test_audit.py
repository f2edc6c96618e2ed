"""`openmcp audit verify` and `keygen`, as they are typed."""

import json
import subprocess
from pathlib import Path

import pytest

from openmcp.config.model import Rotation
from openmcp.sidecar.telemetry.chain import Chain
from openmcp.sidecar.telemetry.records import encode
from tests.support.process import OPENMCP
from tests.telemetry.recording import keys, write


def openmcp(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([OPENMCP, *map(str, arguments)], input=stdin, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    write(path, 5)
    return path


def test_a_whole_record_says_what_is_proven(record: Path, tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(keys()[1])
    whole = "whole: 7 lines (seq 1 to 7) in 1 file, chained without a break\n"
    assert openmcp("audit", "verify", record, "--key", tmp_path / "public.pem") == (
        0,
        f"{whole}signatures: all 2 checkpoints are signed by the key given\n",
        "",
    )
    assert openmcp("audit", "verify", record) == (
        0,
        f"{whole}signatures: not checked, as no --key was given: who can write the files could have written all of it "
        "anew\n",
        "",
    )
    write(tmp_path / "unsigned.jsonl", 5, signed=False)
    code, said, _ = openmcp("audit", "verify", tmp_path / "unsigned.jsonl")
    assert code == 0
    assert "signatures: there are none (telemetry.audit.signingKey): who can write the files could have" in said


def test_nothing_in_a_record_acts_on_the_terminal_of_who_verifies_it(tmp_path: Path) -> None:
    """Who can write the file could have it say, on a screen wiped clean, that the record is whole."""
    (tmp_path / "public.pem").write_bytes(keys()[1])
    record = tmp_path / "audit.jsonl"
    fields = {"time": "2026-07-28T09:30:00.123456Z", "event": "checkpoint", "kind": "start"}
    said = encode(fields | {"key": "\x1b[2Jwhole: \x9b8m\u202e", "signature": "A" * 88})
    record.write_bytes(Chain().link(said))
    code, _, wrong = openmcp("audit", "verify", "--live", "--key", tmp_path / "public.pem", record)
    assert code == 1
    assert f"{record}:1 (seq 1): the checkpoint is signed by another key, \\x1b[2Jwhole: \\x9b8m\\u202e\n" in wrong
    _, told, _ = openmcp("audit", "verify", "--json", "--live", "--key", tmp_path / "public.pem", record)
    assert told.isascii()
    assert json.loads(told)["problems"][0]["what"].endswith("\x1b[2Jwhole: \x9b8m\u202e")


def test_what_is_wrong_is_told_with_its_place(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b'"n":2', b'"n":7'))
    code, said, wrong = openmcp("audit", "verify", record)
    assert (code, said) == (1, "")
    assert wrong.splitlines() == [
        f"{record}:4 (seq 4): the line was changed: its chain value does not fit",
        "not whole: 1 problem in 7 lines (seq 1 to 7) in 1 file",
    ]
    code, said, wrong = openmcp("audit", "verify", "--json", record)
    told = json.loads(said)
    assert (code, wrong, told["whole"], told["signatures"]) == (1, "", False, "unchecked")
    assert told["problems"] == [
        {"file": str(record), "line": 4, "seq": 4, "what": "the line was changed: its chain value does not fit"}
    ]


def test_an_open_end_needs_live(record: Path) -> None:
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:-1]))
    assert openmcp("audit", "verify", record)[0] == 1
    assert openmcp("audit", "verify", "--live", record)[0] == 0
    assert openmcp("audit", "verify", "--live", "-", stdin=record.read_bytes())[0] == 0


def test_files_are_taken_in_their_order_however_they_are_given(tmp_path: Path) -> None:
    write(tmp_path / "audit.jsonl", 40, rotation=Rotation(size=2000))
    files = sorted(tmp_path.iterdir())
    assert files[0].name == "audit.jsonl", "the newest comes first, as the shell gives them"
    code, said, wrong = openmcp("audit", "verify", *files)
    assert (code, wrong) == (0, "")
    assert f"in {len(files)} files" in said


def test_files_and_keys_that_are_none(record: Path, tmp_path: Path) -> None:
    assert openmcp("audit", "verify", tmp_path / "none") == (
        3,
        "",
        f"{tmp_path / 'none'} cannot be read: No such file or directory\n",
    )
    code, _, wrong = openmcp("audit", "verify", record, "--key", record)
    assert code == 2
    assert "is not a public key in PEM (make it from the private one with: openssl pkey" in wrong
    (tmp_path / "private.pem").write_bytes(keys()[0])
    code, _, wrong = openmcp("audit", "verify", record, "--key", tmp_path / "private.pem")
    assert code == 2
    assert "is not a public key in PEM" in wrong


def test_a_key_is_made_once(tmp_path: Path) -> None:
    code, public, _ = openmcp("audit", "keygen", tmp_path / "audit.pem")
    assert code == 0
    assert (tmp_path / "audit.pem").stat().st_mode & 0o777 == 0o600
    made = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "audit.pem", "-pubout"], capture_output=True, check=True, text=True
    )
    assert made.stdout == public
    assert openmcp("audit", "keygen", tmp_path / "audit.pem") == (
        1,
        "",
        f"{tmp_path / 'audit.pem'} is there already; nothing was written\n",
    )
