"""The line protocol: round trips of any bytes, forms seen from clients, limits."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_core import wire
from mogile_core.errors import ERROR_TEXTS, ProtocolError, RequestTooLongError

wire_text = st.binary(max_size=300).map(lambda b: b.decode("latin-1"))
names = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=12).filter(lambda n: n != "callid")
lines = st.binary(max_size=200).map(lambda b: b.replace(b"\n", b" ").decode("latin-1"))


@given(wire_text)
def test_quote_round_trip(text: str) -> None:
    quoted = wire.quote(text)
    assert wire.unquote(quoted) == text
    assert quoted.isascii()
    assert not set(quoted) & set(" &=\r\n\0")


@given(st.binary(max_size=300))
def test_text_of_people_round_trip(raw: bytes) -> None:
    text = wire.from_text(raw)
    assert wire.from_text(wire.to_text(text)) == text
    assert [ord(c) for c in text] == list(raw)


@given(st.text(max_size=100))
def test_unicode_travels_as_utf8(text: str) -> None:
    if text.isprintable():
        assert wire.to_text(wire.unquote(wire.quote(wire.from_text(text)))) == text


@given(st.dictionaries(names, wire_text, max_size=8))
def test_request_round_trip(args: dict[str, str]) -> None:
    (line,) = wire.LineBuffer().feed(wire.encode_request("create_open", args))
    request = wire.parse_request(line)
    assert request is not None
    assert (request.command, request.args) == ("create_open", args)


@given(st.dictionaries(names, wire_text, max_size=8), st.none() | wire_text.filter(bool))
def test_ok_round_trip(args: dict[str, str], callid: str | None) -> None:
    encoded = wire.encode_ok(args, callid)
    assert encoded.startswith(b"OK ")
    assert encoded.endswith(b"\r\n")
    reply = wire.parse_reply(encoded[:-1].decode("latin-1"))
    assert reply.ok
    assert reply.args == args | ({} if callid is None else {"callid": callid})


@given(wire_text, st.none() | wire_text.filter(bool))
def test_error_round_trip(text: str, callid: str | None) -> None:
    reply = wire.parse_reply(wire.encode_error("bad_args", text, callid)[:-1].decode("latin-1"))
    assert (reply.code, reply.text) == ("bad_args", text)


@given(lines)
def test_any_line_is_parsed_or_ignored(line: str) -> None:
    request = wire.parse_request(line)
    if request is not None and not request.admin:
        assert request.command == request.command.lower()
        assert set(request.command) <= set(string.ascii_lowercase + string.digits + "_")


@given(st.lists(lines, max_size=8), st.randoms())
def test_lines_do_not_depend_on_how_bytes_arrive(sent: list[str], dice: object) -> None:
    data = b"".join(line.encode("latin-1") + b"\n" for line in sent)
    buffer, received = wire.LineBuffer(), []
    while data:
        size = dice.randint(1, 40)  # type: ignore[attr-defined]
        received += buffer.feed(data[:size])
        data = data[size:]
    assert received == sent


@pytest.mark.parametrize(
    ("line", "command", "args"),
    [
        ("noop", "noop", {}),
        ("NoOp \r", "noop", {}),
        ("  noop\r", "noop", {}),
        ("noop=1", "noop", {"": "1"}),
        ("get_paths domain=a&key=b+c%20d&&x", "get_paths", {"domain": "a", "key": "b c d", "x": ""}),
        ("x a=1&a=2&b=1=2", "x", {"a": "1\x002", "b": "1"}),
        ("x k=%zz%4", "x", {"k": "%zz%4"}),
        ("x\tk=v with space", "x", {"k": "v with space"}),
        ("=", "", {}),
        ("   ", "", {}),
        ("!", "", {}),
    ],
)
def test_request_forms(line: str, command: str, args: dict[str, str]) -> None:
    request = wire.parse_request(line)
    assert request is not None
    assert request.command == command
    if command:
        assert request.args == args


def test_empty_and_admin_lines() -> None:
    assert wire.parse_request("") is None
    assert wire.parse_request("\r") is None
    request = wire.parse_request("!want 3 delete\r")
    assert request is not None
    assert request.admin.strip() == "want 3 delete"


def test_long_lines_are_refused_before_they_end() -> None:
    buffer = wire.LineBuffer(max_bytes=100)
    assert list(buffer.feed(b"x" * 100 + b"\n")) == ["x" * 100]
    for _ in range(10):
        assert list(buffer.feed(b"x" * 10)) == []
    with pytest.raises(RequestTooLongError):
        buffer.feed(b"x")
    received = []
    with pytest.raises(RequestTooLongError):  # noqa: PT012 - what comes before the error counts
        for line in wire.LineBuffer(max_bytes=100).feed(b"a\nb\n" + b"x" * 101 + b"\nc\n"):
            received.append(line)  # noqa: PERF402
    assert received == ["a", "b"]


@pytest.mark.parametrize("line", ["", "HELLO", "ERR", "ERR ", "OKAY x=1", "<html>"])
def test_answers_that_are_none(line: str) -> None:
    with pytest.raises(ProtocolError):
        wire.parse_reply(line)


def test_forms_clients_rely_on() -> None:
    assert wire.encode_ok({}) == b"OK \r\n"
    assert wire.encode_ok({"altip": None, "n": 3}) == b"OK altip=&n=3\r\n"
    assert wire.encode_error("unknown_key") == b"ERR unknown_key unknown_key\r\n"
    assert wire.encode_error("no_domain", callid="abc") == b"ERR no_domain No+domain+provided abc\r\n"
    assert wire.quote("a-b_c,d.e/f\\g:h i~") == "a-b_c,d.e/f\\g:h+i%7E"
    assert all(code.isidentifier() for code in ERROR_TEXTS)
