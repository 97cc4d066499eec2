# SPDX-License-Identifier: Apache-2.0
"""About two thousand requests: made to be read in two ways, or well-formed and rare. The same each time.

Every target and every host of a case holds its mark, so that a server's log tells which case a request came from. What
may pass is below ``/ok/``; what is hidden inside of bodies, headers and tricks asks for ``/hidden/``.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

MARK = b"cMARKx"
"""Of the length of what is put in its place, so that lengths stay right."""
HOST = b"Host: " + MARK + b".example\r\n"
HIDDEN = b"GET /hidden/" + MARK + b" HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"/ok/" + MARK
GET = b"GET " + OK + b" HTTP/1.1\r\n" + HOST
POST = b"POST " + OK + b" HTTP/1.1\r\n" + HOST
LAST = b"0\r\n\r\n"
CONTROLS = [bytes([code]) for code in (*range(32), 127)]

Expected = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes of one connection. `expected`: of a well-formed case, the requests that must reach the server."""

    family: str
    data: bytes
    expected: Expected | None = None

    def marked(self, number: int) -> "Case":
        """With its own mark in place."""
        mark = b"c%dx" % number
        expected = None
        if self.expected is not None:
            expected = tuple((method, target.replace(MARK, mark)) for method, target in self.expected)
        return Case(self.family, self.data.replace(MARK, mark), expected)


def well(family: str, data: bytes, *methods: bytes) -> Case:
    """A case that must pass: these methods, each of ``/ok/``."""
    return Case(family, data, tuple((method, OK) for method in methods))


def chunk(data: bytes) -> bytes:
    """As one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def cl_te() -> Iterator[Case]:
    names = [
        b"Transfer-Encoding", b"transfer-encoding", b"Transfer_Encoding", b" Transfer-Encoding", b"Transfer-Encoding ",
        b"X: x\nTransfer-Encoding", b"Transfer-Encoding\x0b", b"\tTransfer-Encoding", b"Transfer-Encoding\0",
    ]  # fmt: skip
    values = [
        b"chunked", b"chunked ", b"\tchunked", b"xchunked", b"chunked, identity", b"identity, chunked", b"CHUNKED",
        b"chunked\x0b", b'"chunked"', b"chunked;q=1", b"chun\rked", b"identity", b"", b",chunked",
    ]  # fmt: skip
    for name, value in itertools.product(names, values):
        for length in (len(LAST + HIDDEN), 4):
            te, cl = name + b": " + value + b"\r\n", b"Content-Length: %d\r\n" % length
            yield Case("CL.TE" if length > 4 else "TE.CL", POST + te + cl + b"\r\n" + LAST + HIDDEN)
            yield Case("CL.TE" if length > 4 else "TE.CL", POST + cl + te + b"\r\n" + LAST + HIDDEN)


def te_te() -> Iterator[Case]:
    values = [b"chunked", b"Chunked", b"identity", b"x", b"chunked ", b"gzip", b"", b"chunked, chunked"]
    for one, two in itertools.product(values, values):
        te = b"Transfer-Encoding: " + one + b"\r\nTransfer-Encoding: " + two + b"\r\n\r\n"
        yield Case("TE.TE", POST + te + LAST + HIDDEN)


def lengths() -> Iterator[Case]:
    names = [
        b"Content-Length", b"content-length", b"Content-Length ", b"Content_Length", b"Content-Length\t",
        b"Content-Length\x0b", b"\xc7ontent-Length",
    ]  # fmt: skip
    size = len(HIDDEN)
    spellings = [
        b"%d", b" %d", b"%d ", b"\t%d", b"%d\t", b"+%d", b"-%d", b"0%d", b"%d,%d", b"%d, %d", b"0x%x", b"%d.0", b"%de0",
        b"%d\0", b"%d;", b"'%d'", b"18446744073709551616%d", b"9223372036854775808", b"", b"%d\x0b", b"\xb2%d", b"_%d",
    ]  # fmt: skip
    for name, spelling, method in itertools.product(names, spellings, (b"POST", b"GET")):
        value = spelling % ((size,) * spelling.count(b"%"))
        data = method + b" " + OK + b" HTTP/1.1\r\n" + HOST + name + b": " + value + b"\r\n\r\n" + HIDDEN
        if value.strip(b" \t") == b"%d" % size and name.lower() == b"content-length":
            body = b"x" * size
            yield well("length", data.replace(HIDDEN, body), method)
            yield Case("length", data)
        else:
            yield Case("length", data)
    for one, two in itertools.product((b"0", b"5", b"%d" % size, b""), repeat=2):
        cl = b"Content-Length: " + one + b"\r\nContent-Length: " + two + b"\r\n\r\n"
        yield Case("two lengths", POST + cl + HIDDEN)


def cl_0() -> Iterator[Case]:
    for method in (b"GET", b"DELETE", b"OPTIONS", b"POST", b"PUT"):
        line = method + b" " + OK + b" HTTP/1.1\r\n" + HOST
        body = b"GET /hidden/x HTTP/1.1\r\nHost: x\r\n\r\n"
        yield well("CL.0", line + b"Content-Length: %d\r\n\r\n" % len(body) + body, method)
        yield well("CL.0", line + b"Content-Length: 0\r\n\r\n" + GET + b"\r\n", method, b"GET")
        yield well("CL.0", line + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + LAST, method)
        yield well("CL.0", line + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body) + body, method)
        yield Case("CL.0", line + b"Content-Length: 0\r\n\r\n" + HIDDEN)
        yield Case("CL.0", line + b"\r\n" + HIDDEN)


def line_ends() -> Iterator[Case]:
    heads = [
        GET + b"X-A: b\r\nX-C: d\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 3\r\nX-A: b\r\n\r\nabc" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\n\r\n" + HIDDEN,
    ]
    ends = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"\0\r\n", b"\r\n\r\n", b"\x0b\r\n", b"\x85", b""]
    for head in heads:
        places = [at for at in range(len(head)) if head.startswith(b"\r\n", at)]
        for at, end in itertools.product(places, ends):
            yield Case("line end", head[:at] + end + head[at + 2 :])


def characters() -> Iterator[Case]:
    templates = [
        b"G%cET " + OK + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET%c " + OK + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET " + OK + b"%c HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET " + OK + b" HTTP/1.1%c\r\n" + HOST + b"\r\n",
        GET + b"Transfer%c-Encoding: chunked\r\n\r\n" + LAST + HIDDEN,
        GET + b"Content-Length%c: 5\r\n\r\n" + HIDDEN,
        GET + b"Content-Length:%c5\r\n\r\n" + HIDDEN,
        GET + b"X-A: b%cX-B: c\r\n\r\n",
    ]
    for template, code in itertools.product(templates, [*range(33), 34, 127, 128, 160, 255]):
        yield Case("character", template.replace(b"%c", bytes([code])))


def hosts() -> Iterator[Case]:
    line = b"GET " + OK + b" HTTP/1.1\r\n"
    host = MARK + b".example"
    values = [b"", b" ", host + b",a", host + b", " + host, b"u@" + host, host + b":80:80", host + b":x", host + b"/a",
              host + b"?a", host + b"#a", b"[" + host, host + b"\t" + host, host + b" " + host, b"\xff" + host,
              host + b"\\@a", host + b"%00", host + b":999999"]  # fmt: skip
    for value in values:
        yield Case("host", line + b"Host: " + value + b"\r\n\r\n")
        yield Case("host", line + HOST + b"Host: " + value + b"\r\n\r\n")
    for twin in (b"host", b"HOST", b"Host ", b" Host", b"Host\x0b", b"H\xf6st"):
        yield Case("host", line + HOST + twin + b": other.example\r\n\r\n")
        yield Case("host", line + twin + b": other.example\r\n" + HOST + b"\r\n")
    yield Case("host", line + b"\r\n")
    for value in (host, host + b":80", host + b":8080", b" " + host + b" ", b"[2001:db8::1]:80"):
        yield well("host", line + b"Host:" + value + b"\r\n\r\n", b"GET")


def absolute() -> Iterator[Case]:
    host = MARK + b".example"
    for scheme, authority, path in itertools.product(
        (b"http", b"HTTP", b"https", b"ftp", b"http:"),
        (host, host + b":80", b"other.example", b"u@" + host, host + b"@other.example", b"", host + b"\\a"),
        (OK, b"", b"?" + OK, b"/hidden/" + MARK, b"//hidden", b"/ok/../hidden/" + MARK),
    ):
        yield Case("absolute", b"GET " + scheme + b"://" + authority + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    for target in (b"*", b"hidden/" + MARK, b"/hidden/" + MARK, host + b":80", b"//hidden/" + MARK, b""):
        for method in (b"GET", b"OPTIONS", b"CONNECT", b"POST"):
            yield Case("target", method + b" " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")


def chunks() -> Iterator[Case]:
    line = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    sizes = [
        b"+3", b"-3", b"0x3", b" 3", b"3 ", b"3\t", b"\t3", b"3\n", b"3\r", b"3;\n", b"3;a\rb", b"FFFFFFFFFFFFFFFF3",
        b"10000000000000003", b"3_0", b"3h", b"", b"3,3", b"3\0", b"3\x0b", b"3;a=\0", b"\xb33", b"3.0", b"3;\x7f",
        b"0000000000000000000000000000000000003", b"80000000000000003", b"ffffffff00000003",
    ]  # fmt: skip
    for size, end in itertools.product(sizes, (b"\r\n", b"\n", b"\r")):
        yield Case("chunk size", line + size + end + b"abc\r\n" + LAST + HIDDEN)
    for size in (b"3", b"03", b"0003", b"3;ext", b"3;a=b", b'3;a="b"', b"3;" + b"e" * 500):
        yield well("chunk", line + size + b"\r\nabc\r\n" + LAST + GET + b"\r\n", b"POST", b"GET")
    for size in (b"3;a=\xe4", b"3;;", b"3;", b"3;=a", b'3;a="'):
        yield Case("chunk", line + size + b"\r\nabc\r\n" + LAST + HIDDEN)
    for size in (b"A", b"a", b"0a"):
        yield well("chunk", line + size + b"\r\n0123456789\r\n" + LAST, b"POST")
    for end in (b"", b"\n", b"\r", b"a\r\n", b"abc\r\n", b" \r\n", b"\r\n\r\n", b"\0\0"):
        yield Case("chunk end", line + b"3\r\nabc" + end + LAST + HIDDEN)
        yield Case("chunk end", line + b"3\r\nabc\r\n0" + end + HIDDEN)
        yield Case("chunk end", line + b"3\r\nabc\r\n0\r\n" + end + HIDDEN)
    for hidden in (chunk(HIDDEN), chunk(b"a") + chunk(HIDDEN), chunk(LAST + HIDDEN)):
        yield well("chunk", line + hidden + LAST + GET + b"\r\n", b"POST", b"GET")
    for name, value in itertools.product(
        (b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"content_length", b"X-A ", b" X-A", b"X\0"),
        (b"5", b"chunked", b"close"),
    ):
        yield Case("trailer", line + chunk(b"abc") + b"0\r\n" + name + b": " + value + b"\r\n\r\n" + HIDDEN)
    for trailer in (b"X-A: b\r\n", b"X-A: b\r\nX-C:\r\n", b"Digest: a=b\r\n", b"X-A: \xe4\r\n"):
        trailed = line + chunk(b"abc") + b"0\r\n" + trailer + b"\r\n" + GET + b"\r\n"
        yield well("trailer", trailed, b"POST", b"GET")
    for trailer in (b"X-A: b\n", b"X-A b\r\n", b"X-A: b\rc\r\n", b"X-A: b\r\n c\r\n", b"X" * 9000 + b": a\r\n"):
        yield Case("trailer", line + chunk(b"abc") + b"0\r\n" + trailer + b"\r\n" + HIDDEN)
    for coding in (b"1.0",):
        yield Case("chunk", line.replace(b"HTTP/1.1", b"HTTP/" + coding) + LAST + HIDDEN)


def upgrades() -> Iterator[Case]:
    settings = b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for protocol, connection, more in itertools.product(
        (b"h2c", b"H2C", b"h2", b"HTTP/2.0", b"h2c, websocket", b"websocket, h2c", b"TLS/1.0", b"websocket", b"x/1"),
        (b"Upgrade", b"upgrade, HTTP2-Settings", b"HTTP2-Settings", b"close, Upgrade", b"keep-alive"),
        (b"", settings),
    ):
        fields = b"Upgrade: " + protocol + b"\r\nConnection: " + connection + b"\r\n" + more + b"\r\n"
        yield Case("upgrade", GET + fields + HIDDEN)
    yield Case("h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    yield Case("h2", GET + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n" + settings + b"\r\n" + preface)
    for named in (b"Host", b"Content-Length", b"X-A", b"Transfer-Encoding", b"close, X-A", b"\0", b"Cookie"):
        yield Case("connection", POST + b"Content-Length: 3\r\nConnection: " + named + b"\r\n\r\nabc" + HIDDEN)


def paths() -> Iterator[Case]:
    steps = [
        b"..", b"%2e%2e", b".%2e", b"%2E.", b"..;", b"..;a=b", b"..%2f", b"..%5c", b"..\\", b"%2e%2e%2f", b"..%00",
        b"..%0d%0a", b"%252e%252e", b"%c0%ae%c0%ae", b"..%c0%af", b".", b"", b"..#", b"..%23", b"..?", b"...", b"..%20",
    ]  # fmt: skip
    for step, depth, lead in itertools.product(steps, (1, 2), (b"/ok/", b"/ok/a/")):
        target = lead + b"/".join([step] * depth) + b"/hidden/" + MARK
        yield Case("path", b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        yield Case("path", b"GET " + lead + b"x/" + step + b"?" + MARK + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    for step in (
        b"//hidden/",
        b"/\\hidden/",
        b"/%2fhidden/",
        b"/;/hidden/",
        b"/%68idden/",
        b"/hidden%2f",
        b"/./hidden/",
    ):
        yield Case("path", b"GET " + step + MARK + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    injected = b"%0d%0a%0d%0aGET%20/hidden/" + MARK
    yield Case("injection", b"GET " + OK + injected + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    for raw in (b"\r\nX: y", b"\nX: y", b"\r\n\r\n" + HIDDEN, b" HTTP/1.1\r\nX: y", b"\tHTTP/1.1", b"\xe5\x98\x8a"):
        yield Case("injection", b"GET " + OK + raw + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        yield Case("injection", GET + b"X-A: b" + raw + b"\r\n\r\n")


def versions_and_methods() -> Iterator[Case]:
    for version in (b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1", b"HTTP/01.1", b"HTTP/1.10", b"HTTP/1", b"", b"HTTP/1.1 a",
                    b"HTTP/ 1.1", b"HTTP/1,1", b"HTP/1.1", b"HTTP/11"):  # fmt: skip
        yield Case("version", b"GET " + OK + b" " + version + b"\r\n" + HOST + b"\r\n" + HIDDEN)
    for blank in (b"  ", b"\t", b" \t", b"\x0b", b"\x0c", b"\xa0", b"\r", b""):
        yield Case("blank", b"GET" + blank + OK + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        yield Case("blank", b"GET " + OK + blank + b"HTTP/1.1\r\n" + HOST + b"\r\n")
        yield Case("blank", blank + b"GET " + OK + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    for method in (b"get", b"GE T", b"G\0ET", b"GET,POST", b"", b"HIDDEN", b"TRACE", b"X" * 40, b"GET/"):
        yield Case("method", method + b" " + OK + b" HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN)
    yield well("old client", b"\r\n" + GET + b"\r\n", b"GET")
    yield well("old client", b"GET " + OK + b" HTTP/1.0\r\n\r\n", b"GET")
    yield well("old client", b"GET " + OK + b" HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n", b"GET")
    yield Case("large", GET + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n" + HIDDEN)
    yield Case("large", GET + b"X: y\r\n" * 9_000 + b"\r\n" + HIDDEN)


NAMES = [
    b"Accept", b"Accept-Encoding", b"Accept-Language", b"Authorization", b"Cache-Control", b"Cookie", b"DNT", b"If-None-Match",
    b"Origin", b"Pragma", b"Range", b"Referer", b"Sec-Fetch-Mode", b"User-Agent", b"Via", b"X-Forwarded-For", b"X-Request-Id",
    b"traceparent", b"x_custom", b"TE", b"Upgrade-Insecure-Requests", b"Expires", b"Content-Type", b"Connections", b"Hosts", b"~",
]  # fmt: skip
VALUES = [
    b"*/*", b"gzip, deflate, br", b"de-DE,de;q=0.9", b"Bearer a.b.c==", b"no-cache", b'a=b; c="d e"', b"1", b'W/"abc"', b"null",
    b"", b"bytes=0-10", b"http://a.example/?b=c#d", b"Mozilla/5.0 (X11; Linux x86_64)", b"1.1 a (b)", b"192.0.2.1, 192.0.2.2",
    b"\xe4\xf6", "ü".encode(), b"a\tb", b"trailers", b"text/plain; charset=utf-8", b"host: x", b"Content-Length: 5", b"chunked",
]  # fmt: skip
QUERIES = [
    b"",
    b"?a=b",
    b"?a=%20b&c=/../d",
    b"?//x",
    b"?%0d%0a",
    b"?q=%2e%2e",
    b"?a[]=1&b={}",
    b"?",
    b"?a?b",
    b"?a=b;c",
]
TAILS = [
    b"",
    b"/a",
    b"/a.b",
    b"/a/",
    b"/%20",
    b"/%C3%A4",
    b"/a;b=c",
    b"/a@b:c",
    b"/(a)'!$&*+,=",
    b"/..a",
    b"/a..",
    b"/~a",
    b"/%3Fa",
]


def well_formed(count: int) -> Iterator[Case]:
    """Requests of clients that exist, alone and pipelined; now and then with one between them that is refused."""
    dice = random.Random(9112)
    for _ in range(count):
        data, expected = b"", []
        for _ in range(dice.choice((1, 1, 2, 3, 5))):
            target = OK + dice.choice(TAILS) + dice.choice(QUERIES)
            names = dice.sample(NAMES, dice.randrange(6))
            fields = [(name, b"trailers" if name == b"TE" else dice.choice(VALUES)) for name in names]
            method, body = dice.choice((b"GET", b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD")), b""
            if method in (b"POST", b"PUT"):
                content = dice.choice((b"", b"abc", HIDDEN, b"\0\r\n\r\n" * 9, b"x" * 3000))
                if dice.random() < 0.5:
                    fields.append((dice.choice((b"Content-Length", b"content-length")), b"%d" % len(content)))
                    body = content
                else:
                    fields.append((b"Transfer-Encoding", dice.choice((b"chunked", b"Chunked"))))
                    body = (chunk(content) if content else b"") + LAST
            fields.insert(dice.randrange(len(fields) + 1), (b"Host", MARK + b".example"))
            head = b"".join(
                name + b":" + dice.choice((b" ", b" ", b"", b"  ")) + value + b"\r\n" for name, value in fields
            )
            data += method + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n" + body
            expected.append((method, target))
            if dice.random() < 0.15:
                data += HIDDEN
        yield Case("well-formed", data, tuple(expected))


def corpus() -> list[Case]:
    """All cases, each with a mark of its own of four digits."""
    families = (
        cl_te, te_te, lengths, cl_0, line_ends, characters, hosts, absolute, chunks, upgrades, paths, versions_and_methods,
    )  # fmt: skip
    cases = [case for family in families for case in family()]
    cases += well_formed(400)
    return [case.marked(1000 + number) for number, case in enumerate(cases)]
