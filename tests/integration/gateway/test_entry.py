"""The start script of the nginx gateway: one sentence for everything that is wrong, reload, and what it needs of the file system."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.ports import free_port
from testkit.waiting import wait_until

ADDRESS = "127.0.23.2"


def config_of(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "listen": f"{ADDRESS}:{free_port(ADDRESS)}",
        "metricsListen": f"{ADDRESS}:{free_port(ADDRESS)}",
        "trackers": ["127.0.23.19:7001"],
        "locations": [{"path": "/images/", "domain": "images", "read": "open"}],
    }
    value.update(changes)
    return {name: content for name, content in value.items() if content is not ...}


def location(**changes: Any) -> list[dict[str, Any]]:
    return [{"path": "/images/", "domain": "images", **changes}]


BAD = {
    "no trackers": ({"trackers": ...}, "trackers: is missing"),
    "empty trackers": ({"trackers": []}, "trackers: needs at least one"),
    "tracker without port": ({"trackers": ["10.0.0.5"]}, "trackers[0]: must be host:port"),
    "tracker is a number": ({"trackers": [7001]}, "trackers[0]: must be"),
    "trackers is a string": ({"trackers": "10.0.0.5:7001"}, "trackers: must be a array"),
    "listen": ({"listen": "everywhere"}, "listen: must be IP:port"),
    "port": ({"listen": "0.0.0.0:70000"}, "listen: must be IP:port"),
    "same": ({"listen": "127.0.23.2:9", "metricsListen": "127.0.23.2:9"}, "metricsListen: must differ"),
    "workers": ({"workers": 0}, "workers: must be a whole number from 1 to 64"),
    "workers text": ({"workers": "2"}, "workers: must be a number, not string"),
    "resolver": ({"resolver": "kube-dns"}, "resolver: must be the IP address"),
    "cluster": ({"clusterId": "demo"}, "clusterId: must be a UUID"),
    "limits": ({"limits": {"maxBodyBytes": -1}}, "limits.maxBodyBytes: must be a whole number"),
    "unknown limit": ({"limits": {"rate": 1}}, "limits.rate: is no field"),
    "unknown field": ({"tracker": []}, "tracker: is no field"),
    "no locations": ({"locations": []}, "locations: needs at least one"),
    "location is a string": ({"locations": ["/a/"]}, "locations[0]: must be an object"),
    "path": ({"locations": location(path="images/")}, "locations[0].path: must begin and end with /"),
    "path end": ({"locations": location(path="/images")}, "locations[0].path: must begin and end with /"),
    "path injects": ({"locations": location(path='/a" { } /')}, "locations[0].path: must begin and end with /"),
    "path climbs": ({"locations": location(path="/a/../b/")}, "locations[0].path: must begin and end with /"),
    "twice": ({"locations": location() + location()}, 'locations[1].path: "/images/" is given twice'),
    "domain": ({"locations": location(domain="")}, "locations[0].domain: must not be empty"),
    "read": ({"locations": location(read="Open")}, "locations[0].read: must be open, token or off"),
    "token": ({"locations": location(write="token")}, "locations[0].tokenFile: is missing"),
    "relative token": (
        {"locations": location(write="token", tokenFile="t")},
        "locations[0].tokenFile: must be an absolute path",
    ),
    "misspelt": ({"locations": location(tokenfile="/t")}, "locations[0].tokenfile: is no field"),
    "access log": ({"accessLog": "yes"}, "accessLog: must be true or false"),
}


def check(entry: Path | None, config: Path, run: Path) -> subprocess.CompletedProcess[str]:
    own = [str(entry), "--run-dir", str(run)] if entry else [sys.executable, "-m", "mogile_cli.local.gateway"]
    return subprocess.run(
        [*own, "--config", str(config), "--check"], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("built_in", [False, True], ids=["nginx", "builtin"])
def test_bad_configuration_is_one_sentence(tmp_path: Path, request: pytest.FixtureRequest, built_in: bool) -> None:
    entry = None if built_in else request.getfixturevalue("gateway_entry")
    path = tmp_path / "gateway.json"
    cases = (
        dict(list(BAD.items())[::5]) if built_in else BAD
    )  # a Python start each: the rules themselves are unit-tested
    for name, (changes, sentence) in cases.items():
        path.write_text(json.dumps(config_of(**changes)))
        result = check(entry, path, tmp_path / "run")
        assert result.returncode == 2, name
        assert result.stderr.startswith(f"mogile-gateway: {path}: {sentence}"), (name, result.stderr)
        assert result.stderr.count("\n") == 1, (name, result.stderr)
    path.write_text(json.dumps(config_of()))
    assert check(entry, path, tmp_path / "run").returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1,}',
        '{"listen": "a" "b"}',
        '{"listen": "\\ud800"}',
        "[1, 2",
        "nul",
        '{"a": 01}',
        '{"trackers": [], "trackers": []}',
        "[" * 200,
    ],
)
def test_broken_json_is_one_sentence(tmp_path: Path, gateway_entry: Path, text: str) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(text)
    result = check(gateway_entry, path, tmp_path / "run")
    assert result.returncode == 2
    assert result.stderr.startswith(f"mogile-gateway: {path}: is ")
    assert result.stderr.count("\n") == 1, result.stderr


def test_wrong_command_lines(tmp_path: Path, gateway_entry: Path) -> None:
    good = tmp_path / "gateway.json"
    good.write_text(json.dumps(config_of()))
    for arguments, sentence in (
        (["--config", str(tmp_path / "none.json")], "none.json does not exist (--config)"),
        (["--config"], "--config needs a value"),
        (["--frobnicate"], 'unknown argument "--frobnicate"'),
        (["--config", str(good), "--run-dir", "/proc/none"], "the run directory /proc/none cannot be made"),
        (["--config", str(good), "--run-dir", str(tmp_path / "a b")], "--run-dir and --prefix may hold only"),
        (["--config", str(good), "--run-dir", str(tmp_path / ("x" * 120))], "name is too long"),
        (["--config", str(good), "--prefix", str(tmp_path)], "has no lua/mogile/gateway.lua (--prefix)"),
        (["--config", str(good), "--drain-seconds", "soon"], "--drain-seconds must be a whole number"),
    ):
        result = subprocess.run([gateway_entry, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), (arguments, result)
        assert sentence in result.stderr


@pytest.mark.parametrize("kind", ["nginx", "builtin"], indirect=True)
def test_busy_port_is_one_sentence(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    config = config_of()
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(config))
    host, number = config["listen"].split(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, int(number)))
        other.listen()
        own = [str(request.getfixturevalue("gateway_entry")), "--run-dir", str(tmp_path / "run")]
        argv = own if kind == "nginx" else [sys.executable, "-m", "mogile_cli.local.gateway"]
        result = subprocess.run(
            [*argv, "--config", str(path)], capture_output=True, text=True, timeout=120, check=False
        )
    assert result.returncode == 2
    assert config["listen"] in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


@pytest.fixture
def running(tmp_path: Path, gateway_entry: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any], Path]]:
    config = config_of()
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(config))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [gateway_entry, "--config", str(path), "--run-dir", str(tmp_path / "run"), "--drain-seconds", "2"],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://{config['metricsListen']}/healthz", 200)
        yield process, config, path
    finally:
        process.terminate()
        assert process.wait(timeout=90) == 0


def wait_for(url: str, status: int) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bool(answer.status == status)
        except urllib.error.HTTPError as error:
            return error.code == status

    wait_until(answers, f"{url} to answer {status}")


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(
    running: tuple[subprocess.Popen[bytes], dict[str, Any], Path], tmp_path: Path
) -> None:
    process, config, path = running
    url = f"http://{config['listen']}"
    wait_for(url + "/other/k", 404)
    path.write_text(json.dumps(config | {"locations": [{"path": "/other/", "domain": "images", "read": "open"}]}))
    process.send_signal(signal.SIGHUP)
    wait_for(url + "/other/k", 503)  # the location exists now; there is no tracker
    wait_for(url + "/images/k", 404)
    path.write_text(json.dumps(config | {"workers": -1}))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "workers: must be a whole number" in (tmp_path / "log").read_text(), "the refusal")
    wait_for(url + "/other/k", 503)
    assert process.poll() is None


def test_nothing_is_written_outside_the_run_directory(
    running: tuple[subprocess.Popen[bytes], dict[str, Any], Path], tmp_path: Path
) -> None:
    process, _, _ = running
    master = int((tmp_path / "run" / "nginx.pid").read_text())
    workers = [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
    assert workers
    for pid in (process.pid, master, *workers):
        for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
            try:
                flags = int(descriptor.read_text().split("flags:")[1].split()[0], 8)
                target = os.readlink(f"/proc/{pid}/fd/{descriptor.name}")
            except FileNotFoundError:  # closed meanwhile
                continue
            if flags & (os.O_WRONLY | os.O_RDWR) and target.startswith("/"):
                assert target.startswith((str(tmp_path), "/dev/")), target


@pytest.mark.skipif(
    os.geteuid() != 0, reason="becoming another user needs root; without root every other test here is this test"
)
def test_runs_as_an_unprivileged_user(gateway_entry: Path) -> None:
    folder = Path("/tmp") / f"gateway-test-{os.getpid()}"
    shutil.copytree(gateway_entry.parent, folder / "source")
    config = config_of()
    (folder / "gateway.json").write_text(json.dumps(config))
    (folder / "run").mkdir()
    os.chown(folder / "run", 10001, 10001)
    for path in (folder, *(folder / "source").rglob("*")):
        path.chmod(0o755)
    process = subprocess.Popen(
        [folder / "source" / "mogile-gateway", "--config", folder / "gateway.json", "--run-dir", folder / "run"],
        user=10001, group=10001, extra_groups=[], cwd="/", stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(f"http://{config['metricsListen']}/healthz", 200)
        wait_for(f"http://{config['listen']}/images/k", 503)
        process.terminate()
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0
        assert b"[emerg]" not in errors
        assert b"[alert]" not in errors
        assert b"Permission denied" not in errors
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(folder)
