"""The fuzz targets in short, without atheris: their seeds, cut and mutated at random."""

import random

import pytest

from tests.fuzz.targets import SEEDS, TARGETS, UNCUT

SPECIAL = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"0", b"-", b'"', b"}", b"\xff", b"\r\n\r\n"]
RUNS = {"listener": 300, "http2": 300, "upstream": 600, "events": 1500, "messages": 3000, "credentials": 1000}


def mutated(seeds: list[bytes], random_: random.Random) -> bytes:
    """A seed with some of it changed, repeated, cut away or replaced by a part of another."""
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.randint(0, 4)):
        at = random_.randrange(len(data) + 1)
        other = random_.choice(seeds)
        start = random_.randrange(len(other))
        change = random_.randrange(5)
        if change == 0:
            data[at : at + 1] = bytes([random_.randrange(256)])
        elif change == 1:
            data[at:at] = random_.choice(SPECIAL)
        elif change == 2:
            del data[at : at + random_.randint(1, 20)]
        elif change == 3:
            data[at:at] = other[start : start + random_.randint(1, 60)]
        else:
            data[at : at + 30] = data[at : at + 30] * 2
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        for cuts in (b"\0\0\0", b"\x01\x02\x03", b"\x40\x80\xc0", b"\xfd\xfe\xff"):
            TARGETS[name](cuts + seed[3:] if name not in UNCUT else seed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    seed = random.randrange(2**32)
    random_ = random.Random(seed)
    for number in range(RUNS[name]):
        data = mutated(SEEDS[name], random_)
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"seed {seed}, run {number}: {data!r}") from error
