"""The built-in gateway's configuration: every rule names its field, and what is accepted is what was written."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_cli.local.gateway_config import GatewayConfigError, TokenFile, load, split_address


def good(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "trackers": ["10.0.0.5:7001", "[fd00::1]:7001", "t.example:7001"],
        "locations": [
            {"path": "/", "domain": "all", "read": "open"},
            {
                "path": "/p/",
                "domain": "private",
                "class": "default",
                "read": "token",
                "write": "token",
                "tokenFile": "/t",
            },
        ],
    } | changes
    return value


def read(tmp_path: Path, value: Any) -> Any:
    path = tmp_path / "gateway.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return load(path)


def test_accepted(tmp_path: Path) -> None:
    config = read(tmp_path, good())
    assert config.listen == ("0.0.0.0", 8080)
    assert config.trackers == (("10.0.0.5", 7001), ("fd00::1", 7001), ("t.example", 7001))
    assert [one.write for one in config.locations] == ["off", "token"]
    assert config.locations[1].class_name == ""
    assert config.location_of(b"/p/x").domain == "private"
    assert config.location_of(b"/px").domain == "all"
    assert config.locations[0].allow == "GET, HEAD"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("", "is not JSON"),
        ('{"a": 1, "a": 2}', "is not JSON"),
        ([], "the file"),
        (good(trackers=[]), "trackers"),
        (good(trackers=["x"]), "trackers[0]"),
        (good(trackers=[1]), "trackers[0]"),
        (good(listen=8080), "listen"),
        (good(listen="host:80"), "listen"),
        (good(metricsListen="0.0.0.0:8080"), "metricsListen"),
        (good(workers=True), "workers"),
        (good(workers=65), "workers"),
        (good(resolver="name"), "resolver"),
        (good(clusterId="x"), "clusterId"),
        (good(limits={"maxBodyBytes": -1}), "limits.maxBodyBytes"),
        (good(limits={"x": 1}), "limits.x"),
        (good(accessLog=1), "accessLog"),
        (good(extra=1), "extra"),
        (good(locations=[]), "locations"),
        (good(locations=[1]), "locations[0]"),
        (good(locations=[{"path": "/", "domain": ""}]), "locations[0].domain"),
        (good(locations=[{"path": "x/", "domain": "d"}]), "locations[0].path"),
        (good(locations=[{"path": "/a/./b/", "domain": "d"}]), "locations[0].path"),
        (good(locations=[{"path": "/.mogile-gateway/x/", "domain": "d"}]), "locations[0].path"),
        (good(locations=[{"path": "/", "domain": "d", "write": "yes"}]), "locations[0].write"),
        (good(locations=[{"path": "/", "domain": "d", "write": "token"}]), "locations[0].tokenFile"),
        (good(locations=[{"path": "/", "domain": "d"}] * 2), "locations[1].path"),
    ],
)
def test_refused(tmp_path: Path, value: Any, field: str) -> None:
    with pytest.raises(GatewayConfigError) as caught:
        read(tmp_path, value)
    assert str(caught.value).startswith(
        f"{tmp_path}/gateway.json: {field}: "
        if " " not in field or field == "the file"
        else f"{tmp_path}/gateway.json: {field}"
    )
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40), st.none() | st.integers(1, 65535))
def test_addresses_never_raise(text: str, port: int | None) -> None:
    address = split_address(text, port)
    if address is not None:
        assert address[0]
        assert 0 < address[1] < 65536
        assert not set(address[0]) & set(" /@\r\n\0")


def test_token_file_lets_in_only_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert TokenFile(str(path)).check("Bearer x") == 403
    path.write_text("one\n two \n")
    tokens = TokenFile(str(path))
    for header in ("Bearer one", "bearer two"):
        assert tokens.check(header) == 200
    assert tokens.check("Bearer three") == 403
    for missing in ("Bearer", None, "Basic one", "Bearer one two"):
        assert tokens.check(missing) == 401
    path.write_text("")
    assert TokenFile(str(path)).check("Bearer ") == 401
    assert TokenFile(str(path)).check("Bearer one") == 403
