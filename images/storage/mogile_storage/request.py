"""The head of an HTTP/1 request: bytes in, values out, no I/O. Anything ambiguous about where a request ends is refused."""

from __future__ import annotations

KNOWN_HEADERS_BYTES = 512
KNOWN_HEADERS_MAX = 1024
BODY_BYTES_MAX = 1 << 50
_METHODS = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"POST", b"MKCOL", b"MOVE", b"OPTIONS", b"PATCH"})


class HttpError(Exception):
    """The peer broke HTTP; `status` is the answer before the connection ends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Headers:
    """The header lines of a request, parsed and checked. Names are lower-case bytes. Shared between requests: never changed."""

    __slots__ = ("chunked", "close", "expect", "fields", "keep", "length")

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.fields = fields
        connection = fields.get(b"connection", b"").lower()
        self.close, self.keep = b"close" in connection, b"keep-alive" in connection
        self.expect = fields.get(b"expect", b"").lower() == b"100-continue"
        self.chunked = False
        self.length: int | None = None
        encoding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        if encoding is not None:
            if length is not None:
                raise HttpError(400, "Content-Length and Transfer-Encoding together")
            if encoding.lower() != b"chunked":
                raise HttpError(501, "only the transfer encoding chunked is known")
            self.chunked = True
        elif length is not None:
            if not length.isdigit() or len(length) > 18 or int(length) > BODY_BYTES_MAX:
                raise HttpError(400, "bad Content-Length")
            self.length = int(length)


class Request:
    """The head of a request."""

    __slots__ = ("chunked", "expect", "headers", "keep_alive", "length", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes, headers: Headers) -> None:
        self.method, self.target, self.version, self.headers = method, target, version, headers.fields
        self.length, self.chunked = headers.length, headers.chunked
        modern = version == b"HTTP/1.1"
        self.keep_alive = not headers.close if modern else headers.keep
        self.expect = modern and headers.expect


_known_headers: dict[bytes, Headers] = {}  # clients repeat themselves: most header blocks were seen before


def parse_headers(block: bytes) -> Headers:
    """The header lines without the empty line at the end; HttpError when they are none."""
    known = _known_headers.get(block)
    if known is not None:
        return known
    fields: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n") if block else ():
        name, colon, value = line.partition(b":")
        if not colon or not name or name[0] in b" \t" or name[-1] in b" \t" or b"\n" in line or b"\0" in line:
            raise HttpError(400, "malformed header line")
        name, value = name.lower(), value.strip(b" \t")
        if name in fields:
            if name in (b"content-length", b"transfer-encoding", b"host", b"content-md5", b"if-match"):
                raise HttpError(400, f"header {name.decode('latin-1')} occurs twice")
            value = fields[name] + b", " + value
        fields[name] = value
    headers = Headers(fields)
    if len(block) <= KNOWN_HEADERS_BYTES:
        if len(_known_headers) >= KNOWN_HEADERS_MAX:
            _known_headers.clear()
        _known_headers[block] = headers
    return headers


def parse_head(head: bytes) -> Request:
    """A request from the bytes before the empty line; HttpError when they are none."""
    line, _, block = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise HttpError(400, "not an HTTP/1 request line")
    if words[0] not in _METHODS:
        raise HttpError(501, "unknown method")
    request = Request(words[0], words[1], words[2], parse_headers(block))
    if request.chunked and words[2] != b"HTTP/1.1":
        raise HttpError(400, "chunked encoding needs HTTP/1.1")
    return request
