"""What only raw sockets can show: pipelining, early refusals, half bodies, slow and ambiguous clients."""

import os
import resource
import socket
import time

import pytest

PUT = b"PUT /dev1/0/000/000/%010d.fid HTTP/1.1\r\nHost: x\r\n"
LARGE = os.urandom(2_000_000)


def names_on(node, devid=1):
    """Everything on the device that is not the node's own."""
    found = []
    for folder, _, files in os.walk(node.docroot / f"dev{devid}"):
        found += [name for name in files if name.endswith(".fid") or ".mogile-tmp" in folder]
    return found


def test_pipelined_requests_are_answered_in_order(node):
    parts = [PUT % n + b"Content-Length: 3\r\n\r\n%03d" % n for n in range(50)]
    parts += [b"GET /dev1/0/000/000/%010d.fid HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(50)]
    parts.append(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = node.raw(b"".join(parts))
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == 50
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 51
    bodies = [piece.split(b"\r\n\r\n", 1)[1] for piece in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"%03d" % n for n in range(50)] + [b"mogile storage node\n"]


def test_large_pipelined_bodies(node):
    data = PUT % 1 + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE
    data += PUT % 2 + b"Content-Length: 5\r\n\r\nhello"
    data += b"GET /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = node.raw(data)
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == 2
    assert answer.endswith(LARGE)


def test_http_1_0_closes_unless_asked_to_stay(node):
    assert node.raw(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    twice = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2
    last = b"GET / HTTP/1.0\r\n\r\n"
    assert node.raw(twice + last).count(b"Connection: keep-alive") == 2


def test_expect_continue(node):
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(PUT % 1 + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert stream.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        stream.sendall(b"hello")
        assert stream.recv(1000).startswith(b"HTTP/1.1 201 ")


EARLY = [
    (b"Content-Length: 900000000000000\r\n", b" 507 "),
    (b"Content-Length: 5\r\nX-Mogile-Cluster: 00000000-0000-4000-8000-000000000000\r\n", b" 421 "),
    (b"Content-Length: 5\r\nContent-MD5: nonsense\r\n", b" 400 "),
    (b"Content-Length: 5\r\nX-Mogile-Replace: 1\r\n", b" 403 "),
    (b"Content-Length: 5\r\nContent-Range: bytes 0-4/3\r\n", b" 400 "),
]


@pytest.mark.parametrize(("headers", "status"), EARLY)
def test_refused_before_the_body_also_with_expect(node, headers, status):
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(PUT % 1 + b"Expect: 100-continue\r\n" + headers + b"\r\n")
        answer = stream.recv(1000)
        assert status in answer.splitlines()[0]
        assert b"Connection: close" in answer


def test_a_refusal_reaches_a_client_that_keeps_sending(node):
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(b"PUT /dev9/0/000/000/0000000001.fid HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n")
        sent = 0
        try:
            while sent < 3_000_000:
                sent += stream.send(b"x" * 65536)
        except (BrokenPipeError, ConnectionResetError):
            pytest.fail(f"cut off after {sent} bytes")
        assert stream.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_a_small_refused_body_is_skipped_and_the_connection_goes_on(node):
    refused = b"PUT /dev9/0/000/000/0000000001.fid HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    answer = node.raw(refused * 3 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 404 ") == 3
    assert answer.endswith(b"mogile storage node\n")


@pytest.mark.parametrize("sent", [0, 10, 60_000, 1_500_000])
def test_an_aborted_put_leaves_nothing(node, the, sent):
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(PUT % 1 + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE[:sent])
        time.sleep(0.1)
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(PUT % 2 + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(LARGE) + LARGE[:sent])
        time.sleep(0.1)
    the.wait_until(lambda: names_on(node) == [], "nothing to be left")
    assert node.put(1, 1, LARGE).status == 201
    assert node.get(1, 1).body == LARGE
    assert names_on(node) == ["0000000001.fid"]


def test_a_half_closed_client_with_half_a_body_stores_nothing(node, the):
    node.raw(PUT % 1 + b"Content-Length: 10\r\n\r\nhello", half_close=True)
    the.wait_until(lambda: names_on(node) == [], "nothing to be left")
    assert node.get(1, 1).status == 404


def test_a_half_closed_client_gets_its_answer(node):
    answer = node.raw(PUT % 1 + b"Content-Length: 5\r\n\r\nhello", half_close=True)
    assert answer.startswith(b"HTTP/1.1 201 ")


AMBIGUOUS = [
    (b"Content-Length: 5\r\nContent-Length: 6\r\n", b" 400 "),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b" 400 "),
    (b"Transfer-Encoding: gzip\r\n", b" 501 "),
    (b"Transfer-Encoding: chunked, chunked\r\n", b" 501 "),
    (b"Content-Length: +5\r\n", b" 400 "),
    (b"Content-Length: 5, 5\r\n", b" 400 "),
    (b"Content-Length: -1\r\n", b" 400 "),
    (b"Content-Length : 5\r\n", b" 400 "),
    (b" Folded: 5\r\nContent-Length: 5\r\n", b" 400 "),
    (b"No colon\r\n", b" 400 "),
    (b"Bad\0: 5\r\n", b" 400 "),
    (b"A: b\nContent-Length: 5\r\n", b" 400 "),
]


@pytest.mark.parametrize(("headers", "status"), AMBIGUOUS)
def test_ambiguous_framing_is_refused_and_the_connection_ends(node, headers, status):
    smuggled = b"GET /dev1/usage HTTP/1.1\r\n\r\n"
    answer = node.raw(PUT % 1 + headers + b"\r\nhello" + smuggled)
    assert status in answer.splitlines()[0]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert names_on(node) == []


CHUNKS = [b"zz\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"\r\n", b"-5\r\nhello\r\n", b"1" * 2000]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_bad_chunks(node, the, chunks):
    answer = node.raw(PUT % 1 + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 400 " in answer.splitlines()[0]
    the.wait_until(lambda: names_on(node) == [], "nothing to be left")


HEADS = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b" 400 "),
    (b"GET /\r\n\r\n", b" 400 "),
    (b"GET / HTTP/2.0\r\n\r\n", b" 400 "),
    (b"BREW / HTTP/1.1\r\n\r\n", b" 501 "),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 20000, b" 431 "),
    (b"GET /" + b"a" * 20000, b" 414 "),
    (b"GET /dev1/\0usage HTTP/1.1\r\nConnection: close\r\n\r\n", b" 400 "),
    (b"GET /dev1/\xff HTTP/1.1\r\nConnection: close\r\n\r\n", b" 400 "),
]


@pytest.mark.parametrize(("head", "status"), HEADS)
def test_heads_that_are_none(node, head, status):
    assert status in node.raw(head).splitlines()[0]


def test_head_never_has_a_body_whatever_the_answer(node):
    paths = [
        b"/dev1/0/000/000/0000000077.fid",
        b"/dev9/usage",
        b"/dev1/../x",
        b"/dev1/%20",
        b"/",
        b"/dev1/usage",
        b"/dev1",
    ]
    heads = b"".join(b"HEAD %b HTTP/1.1\r\n\r\n" % path for path in paths)
    answer = node.raw(heads + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"404", b"404", b"403", b"400", b"200", b"200", b"200", b"200"]
    assert all(part.endswith(b"\r\n\r\n") for part in parts[:-1])


def test_absolute_form_and_leading_empty_lines(node):
    answer = node.raw(b"\r\n\r\nGET http://any.host:7500/ HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"mogile storage node\n")


def test_a_slow_reader_of_a_large_file_costs_no_memory(node):
    data = os.urandom(64 << 20)
    assert node.put(1, 1, data).status == 201
    before = resident(node)
    streams = []
    for _ in range(8):
        stream = socket.create_connection((node.address, 7500), 30)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.sendall(b"GET /dev1/0/000/000/0000000001.fid HTTP/1.1\r\n\r\n")
        streams.append(stream)
    time.sleep(0.5)
    assert resident(node) - before < 20 << 20
    assert node.ask("GET", "/").status == 200
    for stream in streams:
        stream.close()


def test_a_large_upload_costs_no_memory(node):
    node.put(1, 1, LARGE)
    before = resident(node)
    piece, count = os.urandom(1 << 20), 200
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(PUT % 2 + b"Content-Length: %d\r\n\r\n" % (count << 20))
        peak = 0
        for n in range(count):
            stream.sendall(piece)
            if n % 10 == 0:
                peak = max(peak, resident(node))
        assert stream.recv(1000).startswith(b"HTTP/1.1 201 ")
    assert peak - before < 20 << 20
    assert node.file(1, 2).stat().st_size == count << 20


def resident(node):
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as stream:
        line = next(line for line in stream if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_too_many_connections_are_told_so(make_node, the):
    node = make_node(connections_max="5")
    streams = [socket.create_connection((node.address, 7500), 30) for _ in range(5)]
    for stream in streams:  # it has taken them when it answers
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stream.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert node.raw(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    for stream in streams:
        stream.close()
    the.wait_until(lambda: node.ask("GET", "/").status == 200, "it to be free again")


SHORT_HEADS = "from mogile_storage import http; http.HEAD_SECONDS = 4.0"  # instead of 15


def test_a_slow_head_is_ended(make_node, the):
    node = make_node(first=SHORT_HEADS)
    with socket.create_connection((node.address, 7500), 30) as stream:
        began = time.monotonic()
        stream.sendall(b"GET / HTTP/1.1\r\n")
        stream.settimeout(0.5)

        def ended() -> bool:
            try:
                stream.sendall(b"A: b\r\n")
                return bool(stream.recv(1000))
            except TimeoutError:
                return False
            except OSError:
                return True

        the.wait_until(ended, "the end, though bytes go on coming")
        assert time.monotonic() - began > 3
    assert node.ask("GET", "/").status == 200


IDLE_CONNECTIONS = 10_000
BYTES_EACH_MAX = 8 << 10  # of the agent's memory; the kernel's buffers are not in it


@pytest.mark.timeout(400)
def test_ten_thousand_idle_connections(make_node):
    """As many as the agent takes by default, some with half a head: it goes on serving, in little memory, and lets go of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE_CONNECTIONS + 500:
        if os.geteuid() != 0:
            pytest.skip("the limit of open files is too low")
        hard = 2 * IDLE_CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    streams = []
    try:
        node = make_node(connections_max=str(IDLE_CONNECTIONS + 10), first=SHORT_HEADS)
        assert node.put(1, 1, b"here").status == 201
        before = resident(node)
        for number in range(IDLE_CONNECTIONS):
            stream = socket.create_connection((node.address, 7500), 30)
            streams.append(stream)
            if number % 10 == 0:
                stream.sendall(b"GET /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nHost: ")
        assert node.get(1, 1).body == b"here"
        grown = resident(node) - before
        assert grown < IDLE_CONNECTIONS * BYTES_EACH_MAX, f"{grown / IDLE_CONNECTIONS:.0f} bytes each"
        for number in range(1, IDLE_CONNECTIONS, 1000):  # those that sent nothing are still served
            streams[number].sendall(b"HEAD / HTTP/1.1\r\n\r\n")
            assert streams[number].recv(100).startswith(b"HTTP/1.1 200 ")
        streams[0].settimeout(60)
        assert streams[0].recv(100).startswith(b"HTTP/1.1 408 "), "half a head is not waited for without end"
        assert node.put(1, 2, b"more").status == 201
    finally:
        for stream in streams:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert node.get(1, 2).body == b"more"
