"""What a node says about how full it is follows the disk for as long as it runs: trackers choose and rebalance by it."""


def figures(body: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in body.decode().splitlines())


def test_the_usage_file_follows_the_disk(make_node, the):
    node = make_node(device_limit_mb="20", reserve_mb="1", usage_interval_seconds="0.2")
    before = figures(node.ask("GET", "/dev1/usage").body)
    assert int(before["total"]) == 20 << 10
    assert int(before["used"]) < 1 << 10
    assert node.put(1, 1, b"x" * (5 << 20)).status == 201

    def grown(name: str) -> bool:
        body = (
            node.ask("GET", "/dev1/usage").body if name == "answer" else (node.docroot / "dev1" / "usage").read_bytes()
        )
        return 5 << 10 <= int(figures(body)["used"]) < 6 << 10

    the.wait_until(lambda: grown("answer"), "the answer shows five megabytes more")
    the.wait_until(lambda: grown("file"), "the file shows five megabytes more")
