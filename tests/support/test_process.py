"""What a test may rely on when it is told a port."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from tests.support.process import free_ports


@pytest.mark.skipif(sys.platform != "linux", reason="what a bound socket keeps from others is Linux's way")
def test_a_free_port_is_kept_for_the_server_that_is_told_it() -> None:
    (port,) = free_ports(1)
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind(("127.0.0.1", port))  # as the kernel does for those who ask for any port
    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
