"""The names that clients may call the listener by."""

import pytest

from openmcp.config.model import Address, Listen
from openmcp.sidecar.build import hosts

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@pytest.mark.parametrize(
    ("listen", "names"),
    [
        (Listen(), set()),
        (Listen(mcp=Address(host="Gateway.example", port=1)), {"gateway.example"}),
        (Listen(mcp=Address(host="0.0.0.0", port=1)), set()),
        (Listen(url="https://gateway.example"), {"gateway.example"}),
        (Listen(url="https://gateway.example:8443"), {"gateway.example:8443"}),
        (Listen(url="https://a.example", allowed_hosts=("B.example",)), {"a.example", "b.example"}),
    ],
)
def test_names(listen, names):
    assert hosts(listen) == LOOPBACK | names
