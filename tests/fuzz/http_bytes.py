"""Bytes that a client of an HTTP server may send: requests, put together and then spoilt."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hypothesis import strategies as st

PATHS: Final = ("/", "/metrics", "/livez", "/healthz", "/readyz", "/status.json", "/payload/folder")

_TARGETS = (
    st.sampled_from(PATHS)
    | st.builds(
        str.__add__,
        st.sampled_from(PATHS),
        st.sampled_from([
            "?", "?verbose", "?verbose=1&verbose", "?name[]=a&name[]=%ff", "?name%5B%5D=%00",
            "?" + "a=b&" * 1500, "#x", ";x", "/..", "/%2e%2e", "%00", "%", "%ff", "%u1234", " ",
        ]),
    )
    | st.sampled_from([
        "*", "", "//", "///livez", "/%", "/%2", "/livez%2F", "/%6civez", "/\xff", "/payload/%2e%2e",
        "/payload/" + "a" * 7000, "/" + "b" * 9000, "http://", "http://[::1",
        "http://[::1]:x/livez", "http://a:b@c/livez", "http://x/livez", "https://x:99999/metrics",
        "HTTP://X/", "a:b", "javascript:alert(1)", "file:///etc/passwd", "x://",
        "/?" + "x" * 8180, "?", "#", "http://\u2100.com/", "/\ud7ff\U0001f300", "localhost:443",
        "[::1]:443", "/a b",
    ])
    | st.text(max_size=20)
)  # fmt: skip

_METHODS = st.sampled_from([
    "GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "PRI", "get", "G\0T",
    "G T", "", "M" * 300, "GE\x7fT", "\u0130", "DELETE", "GET\t", "PATCH", "M-SEARCH",
])  # fmt: skip

_VERSIONS = st.sampled_from([
    "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.99", "HTTP/1.",
    "", "http/1.1", "HTTP/1.1 ", "HTTP/-1.1", "HTTP/1.1\t", "HTTP/11", "ICY",
])  # fmt: skip

_KNOWN_HEADERS = st.sampled_from([
    b"Host: x", b"Host:", b"Host: a:b:c", b"Host: \xff", b"Content-Length: -1",
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 0x5", b"Content-Length: +5",
    b"Content-Length: 5, 5", b"Content-Length: 99999999999999999999999", b"Content-Length: 1_0",
    b"Content-Length: \xb2", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding : x",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Connection: close", b"Connection: keep-alive",
    b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket", b"Accept: \xff;q=\xfe",
    b"Accept: application/openmetrics-text;version=1.0.0;q=nan", b"Accept: text/plain;q=1e999",
    b"Accept: " + b"a/b;q=0.1," * 700, b"Accept-Encoding: gzip;q=nan", b"Accept-Encoding: gzip",
    b"Accept-Encoding: " + b"gzip," * 1500, b"Accept-Encoding: *;q=0", b"Content-Encoding: gzip",
    b"Content-Encoding: br", b"Content-Encoding: deflate", b"Content-Type: text/\xff; charset=\xff",
    b"Authorization: Bearer x", b"Authorization: Bearer", b"Authorization: Basic \xff\xfe",
    b"Authorization: Bearer " + b"e" * 8000, b"Authorization: bearer a b c", b"Authorization:",
    b"Cookie: " + b"a=b; " * 1000, b"Cookie: \x01", b'If-None-Match: W/"', b"Range: bytes=-1",
    b"If-Modified-Since: Thu, 99 Foo 99999 99:99:99 GMT", b": empty", b" folded", b"\tfolded",
    b"X: a\r\n folded\r\n\tagain", b"X\0Y: z", b"X: \0", b"X", b"X : y", b"X:y\rZ: w",
    b"\xff: \xff", b"Sec-WebSocket-Key: x", b"X-Forwarded-For: " + b"1," * 4000,
    b"Y" * 9000 + b": y", b"Z: " + b"z" * 9000, b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Trailer: Host", b"X-T: trailers",
])  # fmt: skip

_HEADERS = (
    _KNOWN_HEADERS
    | st.builds(
        lambda name, value: name + b": " + value, st.binary(max_size=12), st.binary(max_size=30)
    )
    | st.builds(lambda times, line: b"\r\n".join([line] * times), st.integers(2, 300),
                st.sampled_from([b"X: y", b"Host: x", b"Content-Length: 5", b"A: " + b"a" * 100]))
)  # fmt: skip

_CHUNKS = st.sampled_from([
    b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"-5\r\nhello\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello", b"5\nhello\n0\n\n", b"5\r\nhelloXX0\r\n\r\n", b"0x5\r\nhello",
    b"5\r\nhello\r\n0\r\nHost: y\r\n\r\n", b"\r\n", b"zz\r\n", b"5;" + b"e" * 9000 + b"\r\nhello",
    b"1\r\na\r\n" * 500 + b"0\r\n\r\n", b" 5\r\nhello",
    b"00000000000000000005\r\nhello\r\n0\r\n\r\n", b"0\r\n" + b"T: t\r\n" * 200 + b"\r\n",
    b"7fffffffffffffff\r\n",
])  # fmt: skip

_BODIES = st.just(b"") | _CHUNKS | st.binary(max_size=40) | st.just(b"b" * 100_000)
_LINE_ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    end = draw(_LINE_ENDS)
    first = f"{draw(_METHODS)} {draw(_TARGETS)} {draw(_VERSIONS)}".encode("utf-8", "surrogatepass")
    lines = [first, *draw(st.lists(_HEADERS, max_size=6)), b"", draw(_BODIES)]
    return end.join(lines)


_PIPELINED = st.just(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
_TLS_RECORDS = st.sampled_from([
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 80, b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x80\x2e\x01\x03\x01", b"\x17\x03\x03\xff\xff" + b"x" * 200,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\0\0\0\0\0",
])  # fmt: skip
_PLACES = st.floats(0, 1, exclude_max=True)
_SPOILS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "put", "end"]), _PLACES, st.binary(min_size=1, max_size=4)
    ),
    max_size=3,
)


def _spoil(content: bytes, spoils: list[tuple[str, float, bytes]]) -> bytes:
    spoilt = bytearray(content)
    for how, place, given in spoils:
        at = int(place * len(spoilt))
        match how:
            case "flip" if spoilt:
                spoilt[at] ^= given[0] or 1
            case "cut":
                del spoilt[at : at + given[0]]
            case "put":
                spoilt[at:at] = given
            case _:
                del spoilt[at + 1 :]
    return bytes(spoilt)


@dataclass(frozen=True)
class Sent:
    """What a client does on one connection.

    Attributes:
        cuts: Where the bytes are sent in pieces, in parts of their length.
        waits: Whether it waits for some answer before it leaves.
        leaves: "eof" for the end of its bytes, "close", or "reset".
        covered: Where the server speaks TLS, inside of it.
    """

    content: bytes
    cuts: list[float]
    waits: bool
    leaves: str
    covered: bool

    def pieces(self) -> list[bytes]:
        """The bytes as they are sent."""
        places = sorted(int(cut * len(self.content)) for cut in self.cuts)
        bounds = [0, *places, len(self.content)]
        return [self.content[a:b] for a, b in pairwise(bounds) if a < b]


SENT: Final = st.builds(
    Sent,
    content=st.builds(
        _spoil,
        st.lists(_requests() | _PIPELINED, min_size=1, max_size=3).map(b"".join)
        | _TLS_RECORDS
        | st.binary(max_size=300),
        st.just([]) | _SPOILS,
    ),
    cuts=st.lists(_PLACES, max_size=4),
    waits=st.booleans(),
    leaves=st.sampled_from(["eof", "close", "reset"]),
    covered=st.sampled_from([True, True, True, False]),
)
