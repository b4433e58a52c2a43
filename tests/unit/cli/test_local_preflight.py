"""Every check before a start passes on a good machine and names the fix on a bad one."""

import errno
import os
import socket
from pathlib import Path

import pytest

from mogile_cli.errors import UsageError
from mogile_cli.local import preflight
from mogile_cli.local.layout import new_layout

ADDRESS = "127.0.25.1"


def test_a_good_machine_passes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    preflight.check(
        new_layout(tmp_path, base_address="127.0.25", listen=ADDRESS, tracker_port=port - 40, gateway_port=port - 20)
    )
    assert list(tmp_path.iterdir()) == []


def test_a_busy_port_is_named_with_the_option_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} on {ADDRESS} is in use .*--gateway-port") as caught:
            preflight.check_port(ADDRESS, port, "--gateway-port")
        assert caught.value.status == 2
        assert not preflight.port_is_free(ADDRESS, port)
    assert preflight.port_is_free(ADDRESS, port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1.*--base-address"):
        preflight.check_address("192.0.2.1")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--data"):
        preflight.prepare_folder(tmp_path / "file" / "below")


def test_too_little_space_is_refused_in_figures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\d+ MB free .* needs 1099511627776 MB.*--data"):
        preflight.check_space(tmp_path, needed_mb=1 << 40)


def test_a_file_system_without_attributes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(UsageError, match=r"extended attributes.*--data"):
        preflight.check_attributes(tmp_path)
