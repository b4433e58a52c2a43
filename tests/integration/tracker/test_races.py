"""The same thing made at three trackers at once: one wins, the others get the protocol's own error, and ids are never given twice."""

import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mogile_core.wire import encode_args

ROUNDS, RACERS = 15, 9


@pytest.fixture
def three_trackers(cluster: Any) -> list[Any]:
    trackers = [cluster.tracker() for _ in range(3)]
    trackers[0].client().ok("create_domain domain=d1")
    trackers[0].client().ok("create_host host=h0&ip=10.0.0.1&port=7500&status=alive")
    return trackers


def race(trackers: list[Any], request: Callable[[int, int], str]) -> list[Counter[str]]:
    """Every racer sends its request of each round together with the others: the codes of each round ('' is OK)."""
    gate, codes = threading.Barrier(RACERS, timeout=200), [Counter[str]() for _ in range(ROUNDS)]
    problems: list[str] = []

    def racer(number: int) -> None:
        try:
            client = trackers[number % len(trackers)].client()
            for round_ in range(ROUNDS):
                gate.wait()
                codes[round_][client.ask(request(round_, number)).code] += 1
        except Exception as error:
            problems.append(repr(error))
            gate.abort()

    threads = [threading.Thread(target=racer, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not problems
    return codes


@pytest.mark.parametrize(
    ("request_", "loser"),
    [
        ("create_domain domain=n{round}", "domain_exists"),
        ("create_class domain=d1&class=n{round}&mindevcount=2", "class_exists"),
        ("create_host host=n{round}&ip=10.1.{round}.{racer}&port=7500", "host_exists"),
        ("create_host host=n{round}-{racer}&ip=10.2.0.{round}&port=7500", "dup"),
        ("create_device devid=10{round}&hostname=h0", "existing_devid"),
    ],
)
@pytest.mark.timeout(600)
def test_one_of_many_wins_and_the_others_get_the_proper_error(
    three_trackers: list[Any], request_: str, loser: str
) -> None:
    codes = race(three_trackers, lambda round_, racer: request_.format(round=round_, racer=racer))
    assert codes == [Counter({"": 1, loser: RACERS - 1})] * ROUNDS


@pytest.mark.parametrize(
    ("request_", "table", "column"),
    [
        ("create_domain domain=n{round}-{racer}", "domain", "dmid"),
        ("create_class domain=d1&class=n{round}-{racer}&mindevcount=2", "class", "classid"),
        ("create_host host=n{round}-{racer}&ip=10.3.{racer}.{round}&port=7500", "host", "hostid"),
    ],
)
@pytest.mark.timeout(600)
def test_different_names_at_once_all_get_ids_of_their_own(
    cluster: Any, three_trackers: list[Any], request_: str, table: str, column: str
) -> None:
    before = cluster.value(f"SELECT count(*) FROM {table}")
    codes = race(three_trackers, lambda round_, racer: request_.format(round=round_, racer=racer))
    assert codes == [Counter({"": RACERS})] * ROUNDS
    assert cluster.value(f"SELECT count(DISTINCT {column}) FROM {table}") == before + ROUNDS * RACERS


@pytest.mark.timeout(600)
def test_one_requested_fid_is_given_once(three_nodes: Any) -> None:
    trackers = [*three_nodes.trackers, three_nodes.tracker(), three_nodes.tracker()]
    trackers[0].client().ok("create_domain domain=d1")
    for tracker in trackers:
        tracker.client().ok("do_monitor_round")
    codes = race(trackers, lambda round_, _: f"create_open domain=d1&key=k&fid={5000 + round_}")
    assert codes == [Counter({"": 1, "fid_in_use": RACERS - 1})] * ROUNDS


@pytest.mark.parametrize(
    "again", [{}, {"size": 6}, {"key": ""}, {"key": "c" * 256}], ids=["same", "size", "no key", "long key"]
)
def test_an_upload_closed_at_another_tracker_is_closed(three_nodes: Any, again: dict[str, Any]) -> None:
    """The tracker that opened it still remembers it; what decides is its row."""
    opener, closer = three_nodes.tracker().client(), three_nodes.tracker().client()
    for client in (opener, closer):
        client.ok("do_monitor_round")
    opener.ok("create_domain domain=d")
    upload = opener.ok("create_open domain=d&key=k")
    with urllib.request.urlopen(urllib.request.Request(upload["path"], b"hello", method="PUT"), timeout=30):
        pass
    close = {"domain": "d", "key": "k", "size": 5, **upload}
    closer.ok(f"create_close {encode_args(close)}")
    assert opener.ask(f"create_close {encode_args(close | again)}").code == "no_temp_file"
    assert opener.ok("get_paths domain=d&key=k")["path1"]
    assert three_nodes.value("SELECT count(*) FROM file_to_delete2") == 0
