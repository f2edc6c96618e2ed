"""What holds for the tests of all stores."""

from collections.abc import Iterator

import pytest

from tests.support.stores import wait_longer


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    """A machine that stalls is no outage of a store."""
    with pytest.MonkeyPatch.context() as patch:
        wait_longer(patch)
        yield
