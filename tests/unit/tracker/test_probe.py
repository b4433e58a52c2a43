"""Before it starts a tracker makes sure that nobody has its ports, without taking anybody's connection."""

import socket

import pytest

from mogile_core.errors import SettingError
from mogile_tracker import main

ADDRESS = "127.0.20.250"


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind((ADDRESS, 0))
        return int(sock.getsockname()[1])


def test_a_port_that_another_tracker_has_is_one_sentence(port: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((ADDRESS, port))
        other.listen()
        with pytest.raises(SettingError, match=f"cannot listen on {ADDRESS}:{port}: Address already in use"):
            main.probe(ADDRESS, port)
    main.probe(ADDRESS, port)


def test_who_connects_meanwhile_is_refused_not_taken_and_reset(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(socket.socket):
        def close(self) -> None:
            if self.getsockname()[1] == port:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((ADDRESS, port), 10)
                refused.append(port)
            super().close()

    refused: list[int] = []
    monkeypatch.setattr(main.socket, "socket", Watched)
    main.probe(ADDRESS, port)
    assert refused == [port]
