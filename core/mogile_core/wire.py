r"""The tracker line protocol: bytes in, values out, no I/O (facts: tracker line protocol).

Keys are byte strings. Inside the codec a value is *wire text*: a `str` whose characters are the bytes (Latin-1), which is lossless,
sorts like the bytes do and is what MogileFS on PostgreSQL stores. Faces for people convert with `to_text` and `from_text` (UTF-8).

Limits: a line longer than `max_bytes` raises RequestTooLongError as soon as that is known, so memory stays bounded; the rest of that
line cannot be skipped safely by a reader that answers in order, so the connection is closed after the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mogile_core.errors import ERROR_TEXTS, ProtocolError, RequestTooLongError

REQUEST_BYTES_MAX: Final = 1 << 20
REPLY_BYTES_MAX: Final = (
    16 << 20
)  # 1000 escaped keys of 255 bytes are under 1 MiB; list_fids and get_devices can be longer

_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_,-./\\:")
_QUOTE_TABLE: Final = {i: chr(i) if chr(i) in _SAFE else "+" if i == 32 else f"%{i:02X}" for i in range(256)}
_HEX_DIGITS: Final = "0123456789abcdefABCDEF"
_HEX: Final = {a + b: chr(int(a + b, 16)) for a in _HEX_DIGITS for b in _HEX_DIGITS}
_WORD: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_SPACE: Final = " \t\r\n\f\v"


def quote(text: str) -> str:
    """Wire text -> its escaped form (ASCII). Characters above 255 are escaped as their UTF-8 bytes."""
    if text.isalnum() and text.isascii():
        return text
    if not text.isascii():
        text = "".join(c if c <= "\xff" else c.encode().decode("latin-1") for c in text)
    return text.translate(_QUOTE_TABLE)


def unquote(text: str) -> str:
    """Escaped form -> wire text; an escape that is none stays as it stands."""
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    head, *rest = text.split("%")
    parts = [head]
    for piece in rest:
        char = _HEX.get(piece[:2])
        parts.append("%" + piece if char is None else char + piece[2:])
    return "".join(parts)


def from_text(text: str | bytes) -> str:
    """Text of people (UTF-8; undecodable bytes as surrogate escapes) or raw bytes -> wire text."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return raw.decode("latin-1")


def to_text(wire_text: str) -> str:
    """Wire text -> text of people; bytes that are no UTF-8 become surrogate escapes, so that `from_text` gives them back."""
    return wire_text if wire_text.isascii() else wire_text.encode("latin-1").decode("utf-8", "surrogateescape")


def parse_args(text: str) -> dict[str, str]:
    """`a=1&b=2` -> {'a': '1', 'b': '2'}; a name that occurs twice has both values joined with NUL."""
    args: dict[str, str] = {}
    for piece in text.split("&"):
        if not piece:
            continue
        name, _, value = piece.partition("=")
        if "=" in value:
            value = value[: value.index("=")]
        if "%" in piece or "+" in piece:
            name, value = unquote(name), unquote(value)
        args[name] = f"{args[name]}\0{value}" if name in args else value
    return args


def encode_args(args: Mapping[str, object]) -> str:
    """{'a': 1} -> `a=1`; None is an empty value; str is wire text."""
    return "&".join([f"{quote(k)}={'' if v is None else quote(str(v))}" for k, v in args.items()])


@dataclass(frozen=True, slots=True)
class Request:
    """One line from a client. `command` is lower case and '' when the line does not start with a word."""

    command: str
    args: dict[str, str] = field(default_factory=dict)
    raw_args: str = ""
    admin: str = ""  # the text after '!' of an admin line


def parse_request(line: str) -> Request | None:
    """A line without its LF -> Request; None for an empty line, which gets no answer."""
    if line.endswith("\r"):
        line = line[:-1]
    if not line:
        return None
    if line[0] == "!" and len(line) > 1:
        return Request("", admin=line[1:])
    line = line.lstrip(_SPACE)
    command, separator, rest = line.partition(" ")
    if not (separator and command.isascii() and command.isidentifier()):  # the common form is a plain word and a blank
        end = 0
        while end < len(line) and line[end] in _WORD:
            end += 1
        command, rest = line[:end], line[end:]
    rest = rest.lstrip(_SPACE)
    return Request(command.lower(), parse_args(rest.rstrip("\r")) if rest else {}, rest)


def encode_request(command: str, args: Mapping[str, object]) -> bytes:
    """A request line as sent by a client."""
    return f"{command} {encode_args(args)}\r\n".encode("ascii")


def encode_ok(args: Mapping[str, object], callid: str | None = None) -> bytes:
    """`OK <pairs>`: the blank after OK is always there, clients split at it."""
    text = encode_args(args)
    if callid is not None:
        text += f"{'&' if text else ''}callid={quote(callid)}"
    return f"OK {text}\r\n".encode("ascii")


def encode_error(code: str, text: str | None = None, callid: str | None = None) -> bytes:
    """`ERR <code> <text>[ <callid>]`."""
    words = quote(text if text is not None else ERROR_TEXTS.get(code, code))
    tail = f" {quote(callid)}" if callid is not None else ""
    return f"ERR {code} {words}{tail}\r\n".encode("ascii")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer line: `code` is '' for OK."""

    code: str
    text: str = ""
    args: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.code


def parse_reply(line: str) -> Reply:
    """An answer line without its LF -> Reply; ProtocolError for anything else."""
    line = line.rstrip("\r\n")
    word, _, rest = line.partition(" ")
    if word == "OK":
        return Reply("", args=parse_args(rest))
    if word == "ERR":
        code, _, text = rest.partition(" ")
        if code:
            return Reply(code, text=unquote(text.partition(" ")[0]))
    raise ProtocolError(f"expected OK or ERR from the tracker, got {line[:80]!r}")


class LineBuffer:
    """Splits a byte stream into lines (wire text, without LF). Bounded by `max_bytes` per line."""

    __slots__ = ("_max_bytes", "_tail")

    def __init__(self, max_bytes: int = REQUEST_BYTES_MAX) -> None:
        self._max_bytes = max_bytes
        self._tail = bytearray()

    def feed(self, data: bytes) -> Iterable[str]:
        """The lines completed by `data`, in order; those before a line that is too long come first, then RequestTooLongError."""
        if not self._tail and data.endswith(b"\n") and data.count(b"\n") == 1:  # one whole request: nearly always
            if len(data) > self._max_bytes + 1:
                raise RequestTooLongError
            return (data[:-1].decode("latin-1"),)
        self._tail += data
        if b"\n" not in data:
            if len(self._tail) > self._max_bytes:
                raise RequestTooLongError
            return ()
        *lines, tail = self._tail.split(b"\n")
        self._tail = bytearray(tail)
        if len(tail) > self._max_bytes or any(len(line) > self._max_bytes for line in lines):
            return self._until_too_long(lines)
        return [line.decode("latin-1") for line in lines]

    def _until_too_long(self, lines: Iterable[bytearray]) -> Iterator[str]:
        for line in lines:
            if len(line) > self._max_bytes:
                break
            yield line.decode("latin-1")
        raise RequestTooLongError
