"""Arbitrary bytes over a real socket: no input kills the tracker, stalls another connection, or gets an answer of another form."""

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.waiting import wait_until

END = b"OK callid=theend\r\n"
ANSWER = re.compile(rb"(OK (|[!-~]*)|ERR \w+ [!-~]*( [!-~]*)?)\r\n")
# `sleep`, `!shutdown`, `!want` and `!to` do what they say; they are tested elsewhere.
HARMFUL = re.compile(rb"!(sh|w|t)|sleep|crash|do_monitor|clear_cache|set_server|fsck|rebal", re.IGNORECASE)

words = st.sampled_from(
    [b"get_paths", b"create_open", b"create_close", b"list_keys", b"file_info", b"noop", b"delete", b"rename", b"get_hosts",
     b"updateclass", b"file_debug", b"list_fids", b"!stats", b"!jobs", b"!", b"!recent", b"!pending", b"GET / HTTP/1.1"]
)  # fmt: skip
arguments = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"domain",
                b"key",
                b"fid",
                b"devid",
                b"limit",
                b"after",
                b"prefix",
                b"class",
                b"callid",
                b"size",
                b"to_key",
            ]
        ),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"", b"0", b"-1", b"99999999999999999999", b"%", b"%0", b"%00", b"%FF", b"d1"]),
        ),
    ),
    max_size=6,
).map(lambda pairs: b"&".join(name + b"=" + value for name, value in pairs))
lines = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda word, rest, end: word + b" " + rest + end,
        words,
        arguments,
        st.sampled_from([b"\n", b"\r\n", b"\r\r\n", b""]),
    ),
)
inputs = st.lists(lines, max_size=12).map(b"".join).filter(lambda data: not HARMFUL.search(data))
cuts = st.lists(st.integers(min_value=1, max_value=64), max_size=6)


def talk(where: tuple[str, int], data: bytes, pieces: list[int]) -> bytes:
    """Send it in pieces, then a last request; everything that comes back until its answer or the end."""
    with socket.create_connection(where, timeout=90) as sock:
        try:
            for size in pieces:
                sock.sendall(data[:size])
                data = data[size:]
            sock.sendall(data + b"\r\nnoop callid=theend\r\n")
        except OSError:
            return b""  # cut off while sending, which it may be
        received = b""
        while END not in received:
            part = sock.recv(65536)
            if not part:
                break
            received += part
        return received


@pytest.mark.timeout(900)
def test_no_bytes_harm_anybody_else(cluster: Any) -> None:
    tracker = cluster.tracker(request_bytes_max=65536)
    other = tracker.client()
    other.ok("create_domain domain=d1")
    children = wait_until(
        lambda: lines if {"census count 1", "queryworker count 1"} <= set(lines := other.admin("jobs")) else None,
        "all jobs",
    )
    where = (tracker.address, tracker.port)

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=inputs, pieces=cuts)
    def fuzz(data: bytes, pieces: list[int]) -> None:
        received = talk(where, data, pieces)
        assert received.endswith(END), received[-200:]
        if b"!" not in data:
            for line in received.splitlines(keepends=True):
                assert ANSWER.fullmatch(line), line
        started = time.monotonic()
        assert other.raw("noop") == "OK "
        assert time.monotonic() - started < 30

    fuzz()
    assert other.admin("jobs") == children, "a process was replaced"
    assert "unexpectedly" not in tracker.log()


def test_a_line_that_never_ends_costs_its_own_connection_only(cluster: Any) -> None:
    tracker = cluster.tracker(request_bytes_max=65536)
    other = tracker.client()
    with socket.create_connection((tracker.address, tracker.port), timeout=90) as sock:
        try:
            for _ in range(1000):
                sock.sendall(b"x" * 65536)
        except OSError:
            pass
        try:
            answer = sock.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith(b"ERR "), answer
    assert other.raw("noop") == "OK "
    for pid in _pids(other):
        peak = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
        assert int(peak.split()[1]) < 200_000, peak


def _pids(client: Any) -> list[str]:
    return [pid for line in client.admin("jobs") if line.startswith("queryworker pids") for pid in line.split()[2:]]


def test_a_client_that_does_not_read_is_cut_and_others_do_not_wait(cluster: Any) -> None:
    tracker = cluster.tracker(slow_reader_seconds=6)
    other = tracker.client()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.2)
        sock.connect((tracker.address, tracker.port))
        ends = time.monotonic() + 90
        while True:
            assert time.monotonic() < ends, "never cut"
            try:
                sock.sendall(b"!jobs\r\nnoop callid=" + b"x" * 20_000 + b"\r\n")
            except TimeoutError:
                started = time.monotonic()
                assert other.raw("noop") == "OK "
                assert time.monotonic() - started < 5
            except OSError:
                break
    assert other.raw("noop") == "OK "
