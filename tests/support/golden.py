"""Golden files: what we emit, kept whole, so that a change of it is seen and reviewed."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare `text` with `tests/golden/<name>`; with OPENMCP_GOLDEN=renew (`make golden`) write it there instead."""
    path = FOLDER / name
    if os.environ.get("OPENMCP_GOLDEN") == "renew":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    if not path.exists():
        pytest.fail(f"{path} is missing: make golden", pytrace=False)
    assert text == path.read_text(encoding="utf-8"), f"{name} differs; where it should: make golden"
