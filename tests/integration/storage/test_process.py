"""The processes themselves: mistakes of whoever starts them, stopping, and the read nginx beside the agent."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

BODY = b"q" * 5000
LARGE = os.urandom(8 << 20)


def run(command, *arguments, **settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
    environment |= {f"MOGILE_{k.upper()}": str(v) for k, v in settings.items()}
    words = [sys.executable, "-m", "mogile_storage.main", *command.split(), *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)


def one_line(result, *words):
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert result.returncode == 2
    for word in words:
        assert word in lines[0]


def test_mistakes_are_one_line_and_status_2(tmp_path):
    one_line(run("agent", docroot=tmp_path / "none"), "MOGILE_DOCROOT", "none")
    one_line(run("agent", docroot=tmp_path, cluster_id="nonsense"), "MOGILE_CLUSTER_ID", "UUID")
    one_line(run("agent", docroot=tmp_path, initialise="maybe"), "MOGILE_INITIALISE", "auto, manual")
    one_line(run("agent", "--frobnicate=1"), "--frobnicate")
    one_line(run("nginx", docroot=tmp_path / "none"), "MOGILE_DOCROOT")
    one_line(run("nginx", docroot=tmp_path, run_dir="/proc/nowhere"), "MOGILE_RUN_DIR")
    one_line(run("nginx", docroot=tmp_path, run_dir=f"{tmp_path}/a;b"), "MOGILE_RUN_DIR")
    one_line(run("frobnicate"), "agent|nginx")
    one_line(run(""), "agent|nginx")
    assert "MOGILE_DOCROOT" in run("agent", "--help").stdout


@pytest.mark.parametrize("port", [7500, 7501, 7502, 7580])
def test_a_busy_port(make_node, port):
    node = make_node(start=False)
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind((node.address, port))
        stream.listen()
        settings = {k.removeprefix("MOGILE_").lower(): v for k, v in node.environment().items() if "MOGILE_" in k}
        command = "nginx" if port == 7580 else "agent"
        result = run(command, **settings)
    lines = [line for line in result.stderr.splitlines() if line.startswith(f"mogile-storage {command}: ")]
    assert len(lines) == 1
    assert f"{node.address}:{port}" in lines[0]
    assert "address already in use" in lines[0].lower()
    assert result.returncode == 2


def test_a_run_directory_that_another_node_uses(make_node):
    first, second = make_node().start_nginx(), make_node(start=False)
    settings = {k.removeprefix("MOGILE_").lower(): v for k, v in second.environment().items() if "MOGILE_" in k}
    configuration = (first.folder / "run" / "nginx.conf").read_bytes()
    one_line(run("nginx", **settings | {"run_dir": first.folder / "run"}), "MOGILE_RUN_DIR", "in use by another")
    assert (first.folder / "run" / "nginx.conf").read_bytes() == configuration
    first.nginx.kill()  # however it ends, the directory is free
    first.nginx.wait()
    first.start_nginx()


def test_sigterm_lets_a_running_upload_end_and_closes_idle_connections(node, the):
    idle = socket.create_connection((node.address, 7500), 30)
    idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
    upload = socket.create_connection((node.address, 7500), 30)
    upload.sendall(b"PUT /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    upload.sendall(LARGE[:1_000_000])
    the.wait_until(lambda: under_way(node), "the upload to begin")
    node.process.send_signal(signal.SIGTERM)
    assert idle.recv(1000) == b""
    time.sleep(0.3)
    upload.sendall(LARGE[1_000_000:])
    answer = upload.recv(1000)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"Connection: close" in answer
    assert node.process.wait(60) == 0
    idle.close()
    upload.close()
    node.start()
    assert node.get(1, 1).body == LARGE


def under_way(node):
    """The agent holds a file that has no name yet, or a temporary one."""
    targets = []
    for descriptor in os.scandir(f"/proc/{node.process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(descriptor.path))
    return any(
        target.startswith(str(node.docroot)) and (".mogile-tmp" in target or "deleted" in target) for target in targets
    )


def test_a_node_that_stops_says_so_and_is_alive_until_its_last_answer(node, the):
    with socket.create_connection((node.address, 7500), 30) as upload:
        upload.sendall(f"PUT {the.fid_path(1, 1)} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 70_000)
        assert node.ask("GET", "/readyz", port=7502).body == b"ok\n"
        the.wait_until(lambda: under_way(node), "the upload to begin")
        node.process.terminate()
        the.wait_until(lambda: node.ask("GET", "/readyz", port=7502).status == 503, "it is not ready any more")
        assert node.ask("GET", "/readyz", port=7502).body == b"stopping\n"
        assert node.ask("GET", "/healthz", port=7502).status == 200
        upload.sendall(b"x" * 30_000)
        assert upload.recv(100).startswith(b"HTTP/1.1 201 ")
    assert node.process.wait(30) == 0


def test_sigterm_has_a_deadline(make_node, the):
    node = make_node(drain_seconds="1")
    with socket.create_connection((node.address, 7500), 30) as stream:
        stream.sendall(
            b"PUT /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + LARGE[:70_000]
        )
        the.wait_until(lambda: under_way(node), "the upload to begin")
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 30
    assert not node.file(1, 1).exists()


def test_nginx_answers_503_until_the_agent_has_looked_and_keeps_serving_without_it(make_node, the):
    node = make_node(start=False)
    path = the.fid_path(1, 1)
    node.file(1, 1).parent.mkdir(parents=True)
    node.file(1, 1).write_bytes(BODY)
    node.start_nginx()
    assert node.ask("GET", path, port=7580).status == 503
    node.start()
    the.wait_until(lambda: node.ask("GET", path, port=7580).status == 200, "nginx serves")
    node.kill()
    time.sleep(2.5)
    assert node.ask("GET", path, port=7580).body == BODY
    node.start()
    assert node.ask("GET", path, port=7580).body == BODY


def test_nginx_stops_serving_a_lost_device(nginx_node, the):
    node = nginx_node
    node.put(1, 1, BODY)
    node.put(2, 2, BODY)
    (node.docroot / "dev1" / ".mogile-device").unlink()
    the.wait_until(lambda: node.get(1, 1, port=7580).status == 503, "dev1 is out")
    assert node.get(2, 2, port=7580).body == BODY


def test_nginx_takes_reads_only_and_nothing_hidden(nginx_node, the):
    node = nginx_node
    node.put(1, 1, BODY)
    for method in ("PUT", "DELETE", "POST", "MKCOL"):
        assert node.ask(method, the.fid_path(1, 1), b"x", port=7580).status in (405, 501)
    for path in ("/dev1/.mogile-mark", "/dev1/.mogile-quarantine/x", "/dev1/0/000/000/", "/dev1/0", "/etc/passwd"):
        assert node.ask("GET", path, port=7580).status == 404
    assert node.get(1, 1).body == BODY


def test_nginx_drains_at_sigterm(nginx_node):
    node = nginx_node
    node.put(1, 1, LARGE)
    with socket.create_connection((node.address, 7580), 30) as stream:
        stream.settimeout(60)
        stream.sendall(b"GET /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first = stream.recv(1000)
        node.nginx.send_signal(signal.SIGTERM)
        pieces = [first]
        reader = threading.Thread(target=lambda: pieces.extend(iter(lambda: stream.recv(65536), b"")))
        reader.start()
        reader.join(60)
    assert b"".join(pieces).endswith(LARGE[-1000:])
    assert node.nginx.wait(60) == 0


def test_nginx_workers_end_with_their_keeper_killed_or_not(nginx_node, the):
    """A keeper that is killed -9 must not leave a nginx that nobody keeps in step; a new one takes the port over."""
    node = nginx_node
    node.put(1, 1, BODY)
    node.nginx.kill()
    node.nginx.wait(60)
    node.start_nginx()
    the.wait_until(lambda: node.get(1, 1, port=7580).status == 200, "the new one serves")
    (node.docroot / "dev1" / ".mogile-device").unlink()
    the.wait_until(lambda: node.get(1, 1, port=7580).status == 503, "nobody serves the lost device")
    # A worker of before the reload may still answer for a moment, one of a nginx that nobody keeps in step for ever.
    the.wait_until(
        lambda: all(node.get(1, 1, port=7580).status == 503 for _ in range(20)), "20 answers in a row to refuse it"
    )


def test_an_idle_node_is_small(make_node, the):
    node = make_node(2, prefix=["env"]).start_nginx()  # commands: nothing is shared with what they would be forks of
    total = 0

    def small():
        nonlocal total
        total = 0
        for process in (node.process, node.nginx):
            for pid in family(process.pid):
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
                    total += next(int(line.split()[1]) for line in stream if line.startswith("Pss:"))
        return total < 60 * 1024

    time.sleep(1)
    the.wait_until(small, "both to have settled below 60 MiB", 30)


def family(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [pid, *(grandchild for child in stream.read().split() for grandchild in family(int(child)))]
