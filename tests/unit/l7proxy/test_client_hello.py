# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from socket import create_server

import pytest

from l7proxy.client_hello import MAX_HELLO, ClientHello, HelloReader
from l7proxy.head import NEED_MORE, Malformed, NeedMore


def block(width: int, *parts: bytes) -> bytes:
    """A vector: its length in `width` bytes, then the parts."""
    data = b"".join(parts)
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, *parts: bytes) -> bytes:
    return kind.to_bytes(2, "big") + block(2, *parts)


def sni(name: bytes) -> bytes:
    return extension(0, block(2, b"\0" + block(2, name)))


VERSIONS = extension(43, block(1, b"\x0a\x0a\x03\x04\x03\x03"))
ALPN = extension(16, block(2, block(1, b"h2"), block(1, b"http/1.1")))
GREASE = extension(0x1A1A) + extension(0xFAFA, b"\0")


def body(
    *extensions: bytes, version: bytes = b"\x03\x03", ciphers: bytes = b"\x13\x01\xc0\x2f", session: bytes = b""
) -> bytes:
    return version + bytes(32) + block(1, session) + block(2, ciphers) + b"\x01\0" + block(2, *extensions)


def message(*extensions: bytes) -> bytes:
    return b"\x01" + block(3, body(*extensions))


def record(data: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes([kind]) + version + block(2, data)


def hello(*extensions: bytes) -> bytes:
    return record(message(*extensions))


def read(data: bytes) -> ClientHello | NeedMore | Malformed:
    return HelloReader().feed(data)


def read_hello(data: bytes) -> ClientHello:
    found = read(data)
    assert isinstance(found, ClientHello), found
    return found


class TestWhatIsRead:
    def test_the_name_the_version_and_the_protocols(self) -> None:
        found = read_hello(hello(GREASE, sni(b"Api.Example.com"), VERSIONS, ALPN))
        assert found == ClientHello("Api.Example.com", "Api.Example.com", "", "TLS 1.3", ("h2", "http/1.1"), False)

    def test_a_hello_without_extensions_has_no_name(self) -> None:
        bare = b"\x03\x01" + bytes(32) + b"\0" + block(2, b"\0\x2f") + b"\x01\0"
        found = read_hello(record(b"\x01" + block(3, bare)))
        assert (found.name, found.sent, found.fault, found.version) == ("", "", "", "TLS 1.0")

    def test_the_version_is_the_legacy_one_where_no_other_is_offered(self) -> None:
        assert read_hello(hello(sni(b"a.example"))).version == "TLS 1.2"

    @pytest.mark.parametrize("kind", [0xFE0D, 0xFFCE])
    def test_encrypted_client_hello_is_seen_and_the_outer_name_judged(self, kind: int) -> None:
        found = read_hello(hello(extension(kind, bytes(200)), sni(b"front.example")))
        assert (found.name, found.ech) == ("front.example", True)

    @pytest.mark.parametrize(
        ("name", "sent", "fault"),
        [
            (b"a.example.", "a.example.", "server name ends in a dot"),
            (b"192.0.2.1", "192.0.2.1", "server name is an address"),
            (b"2001:db8::1", "2001:db8::1", "server name is an address"),
            ("münchen.example".encode(), "m\\xc3\\xbcnchen.example", "server name is not ASCII"),
            (b"a.example\0.evil.example", "a.example\0.evil.example", "server name is no host name"),
            (b"a..example", "a..example", "server name is no host name"),
            (b".a.example", ".a.example", "server name is no host name"),
            (b"a.example:443", "a.example:443", "server name is no host name"),
            (b"a" * 300, "a" * 255, "server name is too long"),
        ],
    )
    def test_what_is_no_host_name_is_recorded_and_never_judged_as_one(self, name: bytes, sent: str, fault: str) -> None:
        found = read_hello(hello(sni(name)))
        assert (found.name, found.sent, found.fault) == ("", sent, fault)

    def test_many_protocols_do_not_make_a_long_record(self) -> None:
        found = read_hello(hello(extension(16, block(2, *(block(1, b"p%d" % n) for n in range(100))))))
        assert len(found.alpn) == 16


class TestRecords:
    def test_a_hello_may_come_byte_by_byte_in_records_of_one_byte(self) -> None:
        data = b"".join(record(bytes([byte])) for byte in message(sni(b"a.example"), VERSIONS))
        reader = HelloReader()
        results = [reader.feed(data[at : at + 1]) for at in range(len(data))]
        assert set(results[:-1]) == {NEED_MORE}
        assert isinstance(results[-1], ClientHello)
        assert results[-1].name == "a.example"
        assert reader.size == len(data)

    def test_what_follows_the_hello_is_not_looked_at(self) -> None:
        reader = HelloReader()
        data = hello(sni(b"a.example"))
        assert isinstance(reader.feed(data + b"whatever"), ClientHello)
        assert reader.size == len(data)

    def test_a_large_hello_is_read(self) -> None:
        data = message(extension(21, bytes(50_000)), sni(b"a.example"))
        cut = b"".join(record(data[at : at + 16384]) for at in range(0, len(data), 16384))
        assert read_hello(cut).name == "a.example"

    @pytest.mark.parametrize(
        ("data", "detail"),
        [
            (b"GET / HTTP/1.1\r\n", "not TLS: text, perhaps HTTP"),
            (b"\x00\x01", "not TLS"),
            (b"\x80\x2e\x01\x00\x02\x00\x15", "SSLv2 ClientHello"),
            (b"\x15\x03\x01\x00\x02\x01\x00", "not TLS"),
            (b"\x17\x03\x03\x00\x01\x00", "not TLS"),
            (b"\x16\x02\x00", "TLS record of an unknown version"),
            (b"\x16\x03\x01\x00\x00", "TLS record of 0 bytes"),
            (b"\x16\x03\x01\x40\x01", "TLS record of 16385 bytes"),
            (record(b"\x02\0\0\0"), "TLS handshake message 2 where a ClientHello must be"),
            (record(b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big")), f"TLS ClientHello of {MAX_HELLO + 5} bytes"),
            (record(message(sni(b"a.example")) + b"\0"), "bytes behind the TLS ClientHello in its record"),
            (
                record(message()[:9]) + record(b"\x01", 20) + record(message()[9:]),
                "TLS record of type 20 inside of the ClientHello",
            ),
        ],
    )
    def test_what_is_no_hello_is_refused_with_what_it_is(self, data: bytes, detail: str) -> None:
        found = read(data)
        assert isinstance(found, Malformed)
        assert found.detail == detail

    def test_the_first_wrong_byte_is_enough(self) -> None:
        assert isinstance(read(b"S"), Malformed)
        assert read(b"\x16") is NEED_MORE


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (body(version=b"\x02\x00"), "unknown version"),
        (body(ciphers=b"\x13\x01\xc0"), "half a cipher suite"),
        (body(ciphers=b""), "a list is too short"),
        (body(session=bytes(33)), "session id too long"),
        (body() + b"\0", "bytes behind the extensions"),
        (body()[:40], "a length goes beyond its end"),
        (body(sni(b"a.example"), sni(b"b.example")), "extension 0 twice"),
        (body(GREASE, extension(0x1A1A)), "extension 6682 twice"),
        (body(extension(0)), "a length goes beyond its end"),
        (body(extension(0, block(2))), "a list is too short"),
        (body(extension(0, block(2, b"\0" + block(2)))), "a list is too short"),
        (body(extension(0, block(2, b"\x01" + block(2, b"a.example")))), "a server name that is no host name"),
        (
            body(extension(0, block(2, b"\0" + block(2, b"a.example"), b"\0" + block(2, b"b.example")))),
            "more than one server name",
        ),
        (body(extension(0, block(2, b"\0" + block(2, b"a.example")), b"\0")), "bytes behind the server name"),
        (body(extension(0, block(2, b"\0\0\x20a.example"))), "a length goes beyond its end"),
        (body(extension(43, block(1, b"\x03"))), "a list is too short"),
        (body(extension(43, block(1, b"\x03\x04\x03"))), "supported_versions do not fit"),
        (body(extension(16, block(2, block(1, b"h2")), b"\0")), "bytes behind the protocols"),
        (body(extension(16, block(2, b"\0\0"))), "a list is too short"),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(data: bytes, detail: str) -> None:
    found = read(record(b"\x01" + block(3, data)))
    assert isinstance(found, Malformed)
    assert found.detail == f"TLS ClientHello: {detail}"


def python_hello(context: ssl.SSLContext, name: str | None) -> bytes:
    """What Python's ssl sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def context(*, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.maximum_version = newest
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


@pytest.mark.parametrize(
    ("made", "name", "version"),
    [
        (lambda: context(protocols=("h2", "http/1.1")), "api.example.com", "TLS 1.3"),
        (lambda: context(newest=ssl.TLSVersion.TLSv1_2), "API.example.com", "TLS 1.2"),
        (context, None, "TLS 1.3"),
    ],
)
def test_pythons_hello_is_read(made: Callable[[], ssl.SSLContext], name: str | None, version: str) -> None:
    client = made()
    found = read_hello(python_hello(client, name))
    assert (found.name, found.version, found.ech) == (name or "", version, False)


def test_python_as_a_server_reads_the_same_name() -> None:
    """What a server calls the name is what was judged."""
    seen: list[str | None] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.sni_callback = lambda _socket, name, _context: seen.append(name)
    for name in (b"a.example", b"A.EXAMPLE", b"a_b.example", b"x" * 63 + b".example"):
        data = hello(sni(name), VERSIONS)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(data)
        with pytest.raises(ssl.SSLError):
            server.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
        assert (seen.pop() or "").lower() == read_hello(data).name.lower()


@pytest.mark.parametrize(
    ("options", "name", "version"),
    [
        (["-servername", "a.example"], "a.example", "TLS 1.3"),
        (["-servername", "a.example", "-tls1_2"], "a.example", "TLS 1.2"),
        (["-noservername"], "", "TLS 1.3"),
        (["-servername", "a.example", "-split_send_frag", "512", "-alpn", "h2,http/1.1"], "a.example", "TLS 1.3"),
    ],
)
def test_openssls_hello_is_read(options: list[str], name: str, version: str) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    with create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        received = b""

        def serve() -> None:
            nonlocal received
            with listening.accept()[0] as peer:
                received = peer.recv(65536)

        serving = threading.Thread(target=serve)
        serving.start()
        subprocess.run(
            [openssl, "s_client", "-connect", f"127.0.0.1:{port}", *options],
            input=b"", capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        serving.join(20)
    found = read_hello(received)
    assert (found.name, found.version) == (name, version)
    assert re.fullmatch("|h2", "".join(found.alpn[:1]))
