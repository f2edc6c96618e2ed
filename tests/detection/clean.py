"""Honest results: prose and code (clean.toml) and data, written or made for this purpose."""

import base64
import csv
import hashlib
import io
import json
import random
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

WRITTEN = Path(__file__).with_name("clean.toml")


def data() -> Iterator[tuple[str, str]]:
    """Data by chance, the same in each run."""
    drawn = random.Random(7)
    begin = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
    times = [begin + timedelta(seconds=drawn.randrange(10**8), microseconds=drawn.randrange(10**6)) for _ in range(200)]
    yield "ids", "\n".join(str(uuid.UUID(int=drawn.getrandbits(128), version=4)) for _ in range(300))
    yield (
        "hashes",
        "\n".join(hashlib.new(name, bytes([n])).hexdigest() for n in range(60) for name in ("md5", "sha1", "sha256")),
    )
    yield "base64 hashes", "\n".join("sha512-" + base64.b64encode(drawn.randbytes(64)).decode() for _ in range(100))
    yield "binary in base64", base64.b64encode(drawn.randbytes(30_000)).decode()
    yield (
        "times",
        "\n".join(f"{t.isoformat()} {t.timestamp()} {int(t.timestamp() * 1000)} {t:%Y%m%d%H%M%S}" for t in times),
    )
    yield "fractions", json.dumps([drawn.random() * 10 ** drawn.randrange(-3, 4) for _ in range(500)])
    yield (
        "places",
        json.dumps([[round(drawn.uniform(-180, 180), 7), round(drawn.uniform(-90, 90), 7)] for _ in range(300)]),
    )
    yield "versions", "\n".join(".".join(str(drawn.randrange(40)) for _ in range(3)) for _ in range(300))
    yield (
        "log",
        "\n".join(
            f"{t:%Y-%m-%dT%H:%M:%S}.{n:03}Z INFO [{drawn.randrange(10**5)}] GET /v1/items/{n} 200 {n * 7}ms"
            for n, t in enumerate(times)
        ),
    )
    yield "hexdump", "\n".join(f"{n * 16:08x}  {drawn.randbytes(16).hex(' ')}" for n in range(100))
    table = io.StringIO()
    csv.writer(table).writerows(
        [n, drawn.randrange(10**6), round(drawn.gauss(0, 99), 4), f"item {n}"] for n in range(200)
    )
    yield "table", table.getvalue()
    yield "columns", "\n".join(" ".join(f"{drawn.randrange(10**4):5}" for _ in range(12)) for _ in range(100))
    items = [{"id": n, "name": f"Größe {n}", "tags": ["a", "b"], "at": t.isoformat()} for n, t in enumerate(times)]
    yield "JSON", json.dumps(items)
    yield "JSON in JSON", json.dumps({"text": json.dumps(items[:50], indent=2)})


def clean() -> dict[str, str]:
    """All of them by name."""
    written = tomllib.loads(WRITTEN.read_text(encoding="utf-8"))
    return {**written["prose"], **written["code"], **dict(data())}
