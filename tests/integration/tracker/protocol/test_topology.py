"""Commands about domains, classes, hosts and devices."""

from typing import Any
from unittest.mock import ANY

import pytest


@pytest.mark.also_through_pgbouncer
@pytest.mark.timeout(900)
def test_topology(play: Any) -> None:
    for part in (domains, classes, hosts, devices, occupied):
        part(play)
    play.nothing_is_missing("topology")


def domains(play: Any) -> None:
    play.ok("get_domains", {"domains": "0"})
    play.err("no_domain", "create_domain")
    play.err("no_domain", "create_domain domain=0")
    play.ok("create_domain domain=d", {"domain": "d"})
    play.err("domain_exists", "create_domain domain=d")
    play.ok("create_domain domain=a%20b%2f%C3%A9", {"domain": "a b/\xc3\xa9"})
    play.err("db", f"create_domain domain={'x' * 256}")
    default = {"name": "default", "mindevcount": "2", "replpolicy": "MultipleHosts()", "hashtype": "NONE"}
    both = play.ok("get_domains")
    assert (both["domains"], {both["domain1"], both["domain2"]}) == ("2", {"d", "a b/\xc3\xa9"})
    for i in "12":
        assert both[f"domain{i}classes"] == "1"
        assert {name: both[f"domain{i}class1{name}"] for name in default} == default
    assert len(both) == 1 + 2 * (2 + len(default))
    play.err("no_domain", "delete_domain")
    play.err("domain_not_found", "delete_domain domain=nope")
    play.ok("delete_domain domain=a+b/%c3%a9", {"domain": "a b/\xc3\xa9"})


def classes(play: Any) -> None:
    for command in ("create_class", "update_class"):
        play.err("no_domain", f"{command} class=c&mindevcount=2")
        play.err("no_class", f"{command} domain=d&mindevcount=2")
        for count in ("", "0", "-1", "x", "1.5"):
            play.err("invalid_mindevcount", f"{command} domain=d&class=c&mindevcount={count}")
        play.err("invalid_mindevcount", f"{command} domain=d&class=c")
        play.err("invalid_replpolicy", f"{command} domain=d&class=c&mindevcount=2&replpolicy=Nope()", "Nope")
        play.err("invalid_hashtype", f"{command} domain=d&class=c&mindevcount=2&hashtype=CRC32")
        play.err("domain_not_found", f"{command} domain=nope&class=c&mindevcount=2")
    answer = {"domain": "d", "class": "c", "mindevcount": "2"}
    play.ok("create_class domain=d&class=c&mindevcount=2", answer)
    play.err("class_exists", "create_class domain=d&class=c&mindevcount=2")
    play.ok(
        "create_class domain=d&class=md&mindevcount=1&hashtype=MD5", {"domain": "d", "class": "md", "mindevcount": "1"}
    )
    play.ok("create_class domain=d&class=gone&mindevcount=1", ANY)
    play.err("class_not_found", "update_class domain=d&class=nope&mindevcount=2")
    changed = {**answer, "mindevcount": "3"}
    play.ok("update_class domain=d&class=c&mindevcount=3&replpolicy=MultipleDevices()&hashtype=SHA-1", changed)
    play.ok("update_class domain=d&class=c&mindevcount=3", changed)
    assert class_row(play, "c") == ("3", "MultipleDevices()", "SHA-1"), "what is not given is kept"
    play.ok("update_class domain=d&class=c&mindevcount=2&replpolicy=&hashtype=NONE", answer)
    assert class_row(play, "c") == ("2", "MultipleDevices()", "NONE"), "NONE clears, empty keeps"
    play.ok("update_class domain=d&class=c&mindevcount=2&replpolicy=MultipleHosts()", answer)
    assert class_row(play, "default") == ("2", "MultipleHosts()", "NONE")
    play.ok(
        "update_class domain=d&class=default&mindevcount=1", {"domain": "d", "class": "default", "mindevcount": "1"}
    )
    assert class_row(play, "default")[0] == "1", "a row for default is made when missing"
    play.err("no_domain", "delete_class class=c")
    play.err("no_class", "delete_class domain=d")
    play.err("nodel_default_class", "delete_class domain=d&class=default")
    play.err("domain_not_found", "delete_class domain=nope&class=c")
    play.err("class_not_found", "delete_class domain=d&class=nope")
    play.ok("delete_class domain=d&class=gone", {"domain": "d", "class": "gone"})
    play.err("domain_has_classes", "delete_domain domain=d")


def class_row(play: Any, name: str) -> tuple[str, str, str]:
    pairs = play.ok("get_domains")
    number = next(k.removesuffix("name") for k, v in pairs.items() if k.startswith("domain1class") and v == name)
    return pairs[f"{number}mindevcount"], pairs[f"{number}replpolicy"], pairs[f"{number}hashtype"]


def hosts(play: Any) -> None:
    play.err("no_host", "create_host ip=10.9.9.9&port=7500")
    play.err("no_ip", "create_host host=h&port=7500")
    play.err("no_port", "create_host host=h&ip=10.9.9.9")
    play.err("unknown_state", "create_host host=h&ip=10.9.9.9&port=7500&status=weird")
    play.err("bad_params", "create_host host=h&ip=10.9.9.9&port=word", "port")
    play.ok("create_host host=h&ip=10.9.9.9&port=7500", {"hostid": "4", "hostname": "h"})
    play.err("host_exists", "create_host host=h&ip=10.9.9.8&port=7500")
    play.err("dup", "create_host host=h2&ip=10.9.9.9&port=7500")
    blank = {
        "hosts": "1",
        "host1_hostid": "4",
        "host1_hostname": "h",
        "host1_http_port": "7500",
        "host1_http_get_port": "",
    }
    at_first = {**blank, "host1_hostip": "10.9.9.9", "host1_status": "down", "host1_altip": "", "host1_altmask": ""}
    play.ok("get_hosts hostid=4", at_first)
    play.ok("get_hosts hostid=99", {"hosts": "0"})
    play.err("no_host", "update_host status=down")
    play.err("host_not_found", "update_host host=nope&status=down")
    play.err("unknown_state", "update_host host=h&status=weird")
    play.err("bad_params", "update_host host=h&getport=word", "getport")
    play.err("dup", f"update_host host=h&ip={play.cluster.nodes[0].address}")
    answer = {"hostid": "4", "hostname": "h"}
    play.ok("update_host host=h&status=readonly&getport=7580&altip=10.8.8.8&altmask=10.0.0.0/8&ip=10.9.9.7", answer)
    changed = {"host1_http_get_port": "7580", "host1_hostip": "10.9.9.7", "host1_status": "readonly"}
    changed |= {"host1_altip": "10.8.8.8", "host1_altmask": "10.0.0.0/8"}
    play.ok("get_hosts hostid=4", {**blank, **changed})
    for request in ("delete_host", "delete_host host=nope"):
        play.err("unknown_host", request)
    play.err("host_not_empty", "delete_host host=node1")


def devices(play: Any) -> None:
    play.err("invalid_state", "create_device devid=90&hostname=h&state=weird")
    for devid in ("", "0", "x", "99999"):
        play.err("invalid_devid", f"create_device devid={devid}&hostname=h")
    play.err("bad_args", "create_device devid=90", "hostid/hostname")
    play.err("unknown_hostid", "create_device devid=90&hostid=99")
    play.err("unknown_host", "create_device devid=90&hostname=nope")
    play.ok("create_device devid=90&hostname=h&state=down", {})
    play.ok("create_device devid=91&hostid=4", {})
    play.err("existing_devid", "create_device devid=90&hostid=4")
    columns = {
        "devid": "90", "hostid": "4", "status": "down", "weight": "100", "mb_total": "", "mb_used": "", "mb_free": "",
        "mb_asof": "", "observed_state": "", "utilization": "", "reject_bad_md5": "",
    }  # fmt: skip
    play.ok("get_devices devid=90", {"devices": "1", **{f"dev1_{name}": value for name, value in columns.items()}})
    play.ok("get_devices devid=99", {"devices": "0"})
    for wrong in ("host=h&device=90", "host=h&device=90&state=weird", "device=90&state=down", "host=h&state=down"):
        play.err("bad_params", f"set_state {wrong}")
    play.err("no_device", "set_state host=h&device=99&state=down")
    play.err("host_mismatch", "set_state host=node1&device=90&state=down")
    play.ok("set_state host=h&device=91&state=dead", {})
    play.err("state_too_high", "set_state host=h&device=91&state=alive")
    play.ok("set_state host=h&device=91&state=down", {})
    play.ok("set_state host=h&device=91&state=alive", {})
    for wrong in ("host=h&device=90", "host=h&device=90&weight=-1", "device=90&weight=5", "host=h&weight=5"):
        play.err("bad_params", f"set_weight {wrong}")
    play.err("no_device", "set_weight host=h&device=99&weight=5")
    play.err("host_mismatch", "set_weight host=node1&device=90&weight=5")
    play.ok("set_weight host=h&device=90&weight=0", {})
    assert play.ok("get_devices devid=90")["dev1_weight"] == "0"
    for request in ("delete_host host=h",):
        play.err("host_not_empty", request)
    play.cluster.sql("DELETE FROM device WHERE hostid = 4")
    play.ok("delete_host host=h", {})


def occupied(play: Any) -> None:
    play.store("one", **{"class": "c"})
    play.err("class_has_files", "delete_class domain=d&class=c")
    play.ok("delete domain=d&key=one", {})
    play.ok("delete_class domain=d&class=c", {"domain": "d", "class": "c"})
    play.ok("create_domain domain=full", {"domain": "full"})
    play.cluster.sql("INSERT INTO file SELECT 900000, dmid, 'x', 1, 0, 1 FROM domain WHERE namespace = 'full'")
    play.err("domain_has_files", "delete_domain domain=full")
    play.cluster.sql("DELETE FROM file WHERE fid = 900000")
    play.ok("delete_domain domain=full", {"domain": "full"})
