"""Settings, logs, metrics and the health application."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from mogile_core.errors import SettingError
from mogile_core.runtime import logs
from mogile_core.runtime.clock import FakeClock
from mogile_core.runtime.health import always_ok, health_app
from mogile_core.runtime.metrics import Registry, render
from mogile_core.runtime.settings import describe, help_text, load, load_or_exit, parse_listen, secret_from, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    name: str = setting(..., "who")
    port: int = setting(7, "where", minimum=1, maximum=9)
    pause_seconds: float = setting(1.5, "how long")
    eager: bool = setting(False, "at once")
    colour: str = setting("red", "which", choices=["red", "blue"])
    note: str | None = setting(None, "remark")


def test_flags_win_over_environment_over_defaults() -> None:
    environ = {"MOGILE_NAME": "env", "MOGILE_PORT": "3", "MOGILE_EAGER": "yes", "OTHER": "1"}
    loaded = load(Sample, ["--port=4", "--pause-seconds", "2"], environ)
    assert loaded == Sample(name="env", port=4, pause_seconds=2.0, eager=True, colour="red", note=None)
    assert load(Sample, ["--eager", "--name=x"], {}).eager


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        ([], {}, "MOGILE_NAME (or --name) is missing"),
        (["--nmae=x"], {}, "unknown argument '--nmae=x'"),
        (["x"], {}, "unknown argument"),
        (["--name"], {}, "--name needs a value"),
        (["--name=x", "--port=0"], {}, "--port must be between 1 and 9, got 0"),
        ([], {"MOGILE_NAME": "x", "MOGILE_PORT": "seven"}, "MOGILE_PORT must be a whole number, got 'seven'"),
        ([], {"MOGILE_NAME": "x", "MOGILE_PAUSE_SECONDS": "nan"}, "MOGILE_PAUSE_SECONDS must be"),
        ([], {"MOGILE_NAME": "x", "MOGILE_EAGER": "perhaps"}, "MOGILE_EAGER must be 1 or 0"),
        ([], {"MOGILE_NAME": "x", "MOGILE_COLOUR": "green"}, "MOGILE_COLOUR must be one of red, blue"),
    ],
)
def test_bad_settings_are_one_sentence(argv: list[str], environ: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(Sample, argv, environ)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exit_status_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_or_exit(Sample, ["--bogus"], "prog")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prog: unknown argument '--bogus'; --help lists the settings\n"
    with pytest.raises(SystemExit) as caught:
        load_or_exit(Sample, ["--help"], "prog")
    assert caught.value.code == 0
    assert all(info.variable in help_text(Sample, "prog") for info in describe(Sample))


def test_listen_addresses_and_secrets(tmp_path: Path) -> None:
    assert parse_listen("0.0.0.0:7001, [::1]:7002", "listen") == [("0.0.0.0", 7001), ("::1", 7002)]
    for bad in ("", "x", "a:b", "a:99999"):
        with pytest.raises(SettingError, match="MOGILE_LISTEN"):
            parse_listen(bad, "listen")
    (tmp_path / "secret").write_text("s3cret\n")
    assert secret_from("direct", str(tmp_path / "secret"), "db_password") == "s3cret"
    assert secret_from("direct", None, "db_password") == "direct"
    with pytest.raises(SettingError, match="MOGILE_DB_PASSWORD_FILE"):
        secret_from(None, str(tmp_path / "none"), "db_password")


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.setup("plain", "info", "jobs")
        logs.get_log("a.b").info("device is full", devid=3, reason="no space")
        logs.get_log("a.b").debug("unseen")
        assert capsys.readouterr().err.endswith(' info jobs a.b: device is full devid=3 reason="no space"\n')
        logs.setup("json", "warning")
        logs.get_log("a.b").warning("odd", value="x\ny")
        entry = json.loads(capsys.readouterr().err)
        assert (entry["event"], entry["value"], entry["level"]) == ("odd", "x\ny", "warning")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_metrics_of_several_processes_add_up() -> None:
    registries = [Registry(), Registry()]
    for number, registry in enumerate(registries, 1):
        registry.counter("hits_total", "Hits", ["kind"]).inc(number, kind='a"\n')
        registry.gauge("age_seconds", "Age", merge="max").set(number)
        registry.gauge("open", "Open").set(number)
        registry.histogram("wait_seconds", "Wait", buckets=(0.1, 1.0)).observe(0.5 * number)
    text = render(r.snapshot() for r in registries)
    assert 'mogile_hits_total{kind="a\\"\\n"} 3' in text
    assert "mogile_age_seconds 2" in text
    assert "mogile_open 3" in text
    assert 'mogile_wait_seconds_bucket{le="0.1"} 0' in text
    assert 'mogile_wait_seconds_bucket{le="1.0"} 2' in text
    assert "mogile_wait_seconds_sum 1.5" in text
    with pytest.raises(ValueError, match="another kind"):
        registries[0].gauge("hits_total", "Hits")
    with pytest.raises(ValueError, match="labels"):
        registries[0].counter("hits_total", "Hits", ["kind"]).inc()


async def test_health_port() -> None:
    problem: list[str | None] = ["not yet"]

    async def ready() -> str | None:
        return problem[0]

    async def metrics() -> str:
        return "x 1\n"

    async with TestClient(TestServer(health_app(live=always_ok, ready=ready, metrics=metrics))) as client:
        assert (await client.get("/healthz")).status == 200
        response = await client.get("/readyz")
        assert (response.status, await response.text()) == (503, "not yet\n")
        problem[0] = None
        assert (await client.get("/readyz")).status == 200
        response = await client.get("/metrics")
        assert (await response.text(), response.headers["Content-Type"][:10]) == ("x 1\n", "text/plain")


async def test_fake_clock() -> None:
    clock = FakeClock(100)
    await clock.sleep(5)
    clock.advance(1)
    assert clock.now() == clock.monotonic() == 106
