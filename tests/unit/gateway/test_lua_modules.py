"""The pure Lua modules of the nginx gateway: escaping agrees with the Python codec, addresses, JSON, DNS messages."""

import random
import socket
import struct
from collections.abc import Callable

from mogile_core.wire import parse_args

Lua = Callable[[str], list[str]]


def test_escaping_agrees_with_the_python_codec(lua: Lua) -> None:
    rng = random.Random(7)
    values = [bytes([byte]) for byte in range(1, 256)] + [
        rng.randbytes(rng.randrange(1, 60)).replace(b"\0", b"") or b"x" for _ in range(200)
    ]
    calls = [
        f"do local v = hex('{value.hex()}') local line = escape.line('x', {{{{'domain', 'd'}}, {{'key', v}}, {{'gone', nil}}}})"
        " assert(escape.pairs(line:match('^x (.*)\\r\\n$')).key == v) out(line) end"
        for value in values
    ]
    lines = lua("local escape = require 'mogile.escape'\n" + "\n".join(calls))
    assert len(lines) == len(values)
    for line, value in zip(lines, values, strict=True):
        assert line.startswith("x domain=d&key=")
        assert line.endswith("\r\n")
        assert line.count("&") == 1
        pairs = parse_args(line[2:-2])
        assert pairs["key"].encode("latin-1") == value


def test_keys_of_request_targets(lua: Lua) -> None:
    cases = {
        ("/images/a%20b", "/images/"): "a b",
        ("/images/a+b?x=1", "/images/"): "a+b",
        ("/images/a%3Fb#c", "/images/"): "a?b",
        ("/%69mages/k", "/images/"): "k",
        ("/images/100%", "/images/"): "100%",
        ("/images/%2525", "/images/"): "%25",
        ("/images/../x", "/x"): "nil",
        ("/x", "/images/"): "nil",
    }
    calls = [f"out(tostring(escape.key('{target}', '{prefix}')))" for target, prefix in cases]
    assert lua("local escape = require 'mogile.escape'\n" + "\n".join(calls)) == list(cases.values())


def test_addresses(lua: Lua) -> None:
    cases = {
        "parse('10.0.0.1:7001')": "10.0.0.1|7001",
        "parse('[fd00::1]:7001')": "[fd00::1]|7001",
        "parse('a-b.c.svc.:7001')": "a-b.c.svc.|7001",
        "parse('10.0.0.1', 53)": "10.0.0.1|53",
        "parse('[::1]', 53)": "[::1]|53",
        "parse('10.0.0.256:1')": "nil",
        "parse('10.0.0.1:0')": "nil",
        "parse('10.0.0.1:65536')": "nil",
        "parse('10.0.0.1')": "nil",
        "parse('a b:1')": "nil",
        "parse('-a:1')": "nil",
        "parse('a..b:1')": "nil",
        "parse('fd00::1:7001')": "nil",
        "url('http://10.0.0.1:7500/dev1/0/000/000/0000000001.fid')": "10.0.0.1:7500|/dev1/0/000/000/0000000001.fid",
        "url('http://[::1]/x')": "[::1]:80|/x",
        "url('http://node-1:7500/x')": "node-1:7500|/x",
        "url('https://10.0.0.1/x')": "nil",
        "url('http://u@10.0.0.1/x')": "nil",
        "url('http://10.0.0.1/x y')": "nil",
        "url('http://10.0.0.1/x\\r\\nHost: y')": "nil",
        "url('http://10.0.0.1/x?y')": "nil",
        "fid('/dev12/0/000/000/0000000123.fid')": "123",
        "fid('/dev1/1/234/567/12345678901.fid')": "12345678901",
        "fid('/dev1/x.fid')": "nil",
    }
    calls = [f"do local a, b = address.{call} out(tostring(a) .. (a and b and '|' .. b or '')) end" for call in cases]
    assert lua("local address = require 'mogile.address'\n" + "\n".join(calls)) == list(cases.values())


def test_json(lua: Lua) -> None:
    good = {
        r'"a\u00e9\ud83d\ude00\n\/"': "aé😀\n/",
        "-12.5e2": "-1250",
        " [1, [2], {}] ": "1",
        '{"a": {"b": [true, false, null]}}': "null",
    }
    reach = ["v", "tostring(v)", "tostring(v[1])", "tostring(v.a.b[3])"]
    calls = [
        f"do local v = assert(json.decode(hex('{text.encode().hex()}'))) out({way}) end"
        for text, way in zip(good, reach, strict=True)
    ]
    found = lua("local json = require 'mogile.json'\n" + "\n".join(calls))
    assert [text.encode("latin-1").decode() for text in found] == list(good.values())
    bad = [
        "",
        "{",
        "[1,]",
        '{"a":1,}',
        "01",
        "1.",
        ".5",
        "+1",
        "tru",
        '"\t"',
        '"\\x"',
        '"\\u12"',
        '"\\udc00"',
        "1 2",
        '{"a":1,"a":2}',
        "{1:2}",
        "'a'",
        "NaN",
    ]
    calls = [f"do local v, e = json.decode(hex('{text.encode().hex()}')) assert(v == nil) out(e) end" for text in bad]
    sentences = lua("local json = require 'mogile.json'\n" + "\n".join(calls))
    assert len(sentences) == len(bad)
    assert all(sentence.startswith("line 1: ") for sentence in sentences)


def message(flags: int, records: list[tuple[int, bytes]], identity: int = 7) -> bytes:
    head = struct.pack(">HHHHHH", identity, flags, 1, len(records), 0, 0)
    body = b"\x04host\x04test\0" + struct.pack(">HH", 1, 1)
    return (
        head
        + body
        + b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 5, len(data)) + data for kind, data in records)
    )


def test_dns_answers(lua: Lua) -> None:
    v4, v6 = socket.inet_aton("10.1.2.3"), socket.inet_pton(socket.AF_INET6, "fd00::1")
    full = message(0x8180, [(5, b"\xc0\x0c"), (1, v4), (28, v6), (1, socket.inet_aton("10.1.2.4"))])
    cases = {
        full: "10.1.2.3 [fd00:0:0:0:0:0:0:1] 10.1.2.4|nil",
        message(0x8183, []): "|nil",
        message(0x8380, []): "nil|truncated",
        message(0x8182, []): "nil|the name server answered with code 2",
        message(0x8180, [(1, v4)], identity=8): "nil|the answer is not for this question",
        message(0x0100, []): "nil|the answer is a question",
        b"\0\7\x81": "nil|the answer is not for this question",
    } | {full[:length]: "nil|the answer is cut off" for length in (20, 40, len(full) - 1)}
    calls = [
        f"do local a, b = dns.answer(hex('{data.hex()}'), 7) out((a and table.concat(a, ' ') or 'nil') .. '|' .. tostring(b)) end"
        for data in cases
    ]
    assert lua("local dns = require 'mogile.dns'\n" + "\n".join(calls)) == list(cases.values())


def test_dns_answers_never_hang_or_raise(lua: Lua) -> None:
    rng = random.Random(3)
    full = message(0x8180, [(1, b"\x0a\1\2\3")] * 5)
    noise = [rng.randbytes(rng.randrange(0, 80)) for _ in range(150)]
    for _ in range(150):
        broken = bytearray(full)
        for _ in range(3):
            broken[rng.randrange(2, len(broken))] = rng.randrange(256)
        noise.append(bytes(broken))
    calls = [f"out(type((dns.answer(hex('{data.hex()}'), 7))))" for data in noise]
    found = lua("local dns = require 'mogile.dns'\n" + "\n".join(calls))
    assert len(found) == len(noise)
    assert set(found) <= {"nil", "table"}
