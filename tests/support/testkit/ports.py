"""Ports for processes that tests start."""

import socket

_given: set[tuple[str, int]] = set()


def free_port(address: str) -> int:
    """A port nobody listens on, and no caller got before: two calls in a row could be given the same one by the kernel."""
    while True:
        with socket.socket() as sock:
            sock.bind((address, 0))
            found = (address, int(sock.getsockname()[1]))
        if found not in _given:
            _given.add(found)
            return found[1]
