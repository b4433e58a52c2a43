"""Load by wrk: what it saw and what it cost the loaded process."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from processes import cpu_seconds

# Printed by every script below; wrk's own summary rounds.
DONE_LUA = """
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %d %f %f %d", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
GET_LUA = DONE_LUA  # the one url of the command line
_GETS_LUA = (
    """
local threads = 0
function setup(thread) threads = threads + 1; thread:set("first", threads * 997) end
local paths, n = {}, 0
for line in io.lines("FILE") do paths[#paths + 1] = line end
function request()
  n = n + 1
  return wrk.format("GET", paths[(first + n * 31) % #paths + 1])
end
"""
    + DONE_LUA
)
_PUT_LUA = (
    """
local threads = 0
function setup(thread) threads = threads + 1; thread:set("base", BASE + threads * 10000000) end
local n, body = 0, string.rep("x", 4096)
function request()
  n = n + 1
  local f = string.format("%010d", base + n)
  return wrk.format("PUT", PATH, nil, body)
end
"""
    + DONE_LUA
)


def puts_lua(base: int, path: str) -> str:
    """PUT of 4 KiB; `path` is a Lua expression of `f`, a number of ten digits that comes once, from `base` on."""
    return _PUT_LUA.replace("BASE", str(base)).replace("PATH", path)


def gets_lua(paths: Path) -> str:
    """GET of the paths in a file, one a line."""
    return _GETS_LUA.replace("FILE", str(paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load generator, or a bare loop, saw."""

    rate: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_ms: float = 0.0
    count: int = 0


def wrk(script: Path, lua: str, url: str, connections: int, seconds: float, pid: int | None = None) -> Load:
    """Load for a while; CPU is that of `pid` and its children per request. Ends the program when a request failed."""
    script.write_text(lua)
    before = cpu_seconds(pid) if pid else 0.0
    command = ["wrk", f"-t{min(2, connections)}", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(pid) - before if pid else 0.0
    numbers = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", output)
    if numbers is None or int(numbers[5]) or not int(numbers[1]):
        sys.exit(f"there were errors under load:\n{output}")
    count, took = int(numbers[1]), int(numbers[2]) / 1e6
    return Load(
        rate=count / took,
        p50_ms=float(numbers[3]) / 1e3,
        p99_ms=float(numbers[4]) / 1e3,
        cpu_ms=used / count * 1e3,
        count=count,
    )
