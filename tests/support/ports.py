"""Ports for processes that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

# Below those that the system gives away by itself, also between the moment when a port was found and its use.
_PORTS = range(15_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Returns so many ports of this machine that nobody uses."""
    # Seeded by the system: tests that run side by side, seeded alike, are not to choose the same ones.
    chooser = random.SystemRandom()
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            each = stack.enter_context(socket.socket())
            port = chooser.choice(_PORTS)
            with suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    return found
