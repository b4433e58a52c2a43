"""Runs pieces of Lua in the only interpreter the gateway has: nginx's."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "images" / "nginx-gateway"
MODULES = Path("/usr/lib/nginx/modules")
Lua = Callable[[str], list[str]]


@pytest.fixture
def lua(tmp_path: Path) -> Lua:
    """Run Lua with the gateway's modules on the path; what it gives to `out` comes back, an item a call."""
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if nginx is None or not (MODULES / "ngx_http_lua_module.so").exists():
        reason = "nginx with its Lua module is not installed (scripts/setup-tests installs both)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(code: str) -> list[str]:
        (tmp_path / "code.lua").write_text(code)
        load = "".join(
            f"load_module {MODULES / name};"
            for name in ("ndk_http_module.so", "ngx_http_lua_module.so")
            if (MODULES / name).exists()
        )
        temporary = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"{load} daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {temporary}"
            f' lua_package_path "{SOURCE}/lua/?.lua;/usr/share/lua/5.1/?.lua;;"; init_by_lua_block {{'
            " function out(text) io.stdout:write(text, '\\0') end"
            " function hex(text) return (text:gsub('%x%x', function(two) return string.char(tonumber(two, 16)) end)) end"
            f" local ok, problem = pcall(dofile, '{tmp_path}/code.lua') if not ok then io.stderr:write(tostring(problem)) end"
            " io.stdout:flush() os.exit(ok and 0 or 3) } }"
        )
        command = [nginx, "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        result = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout.decode("latin-1").split("\0")[:-1]

    return run
