# SPDX-License-Identifier: Apache-2.0
"""A name server like that of a large object store: every answer has other addresses, and a TTL of five seconds.

Answers an A question with `ADDRESSES` of the name's pool of sixteen in 198.51.100.0/24, and an AAAA question with one
address that it never gave before, over UDP and TCP. As cheap as Python allows, because it shares the machine with what
is measured. Run as ``rotating.py ADDRESS``; prints ``ready``.
"""

import itertools
import multiprocessing
import socket
import struct
import sys

ADDRESSES = 8
TTL = 5
PREFIX_V6 = bytes.fromhex("20010db8010000010000")  # 2001:db8:100:1::/80
_A = b"\xc0\x0c\0\x01\0\x01" + TTL.to_bytes(4, "big") + b"\0\x04"
_AAAA = b"\xc0\x0c\0\x1c\0\x01" + TTL.to_bytes(4, "big") + b"\0\x10" + PREFIX_V6
_POOLS = [
    [
        b"".join(_A + bytes((198, 51, 100, 10 + (pool * 15 + (turn + step) % 16) % 240)) for step in range(ADDRESSES))
        for turn in range(16)
    ]
    for pool in range(256)
]


def answer(query: bytes, number: int) -> bytes:
    """The answer to a query with one question; what stands behind the question (EDNS) is left out."""
    end = query.index(b"\0", 12) + 5
    if query[end - 4 : end - 2] == b"\0\x1c":
        tail, count = _AAAA + struct.pack("!IH", number >> 16, number & 0xFFFF), b"\0\x01"
    else:
        tail, count = _POOLS[hash(query[12:16]) & 255][number * 5 & 15], b"\0\x08"
    return query[:2] + b"\x81\x80\0\x01" + count + b"\0\0\0\0" + query[12:end] + tail


def udp(address: str) -> None:
    """Serves for ever."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind((address, 53))
    for number in itertools.count():
        query, client = server.recvfrom(2048)
        server.sendto(answer(query, number), client)


def tcp(address: str) -> None:
    """Serves for ever, one select loop for all connections."""
    import selectors  # noqa: PLC0415 - this process's alone

    listener = socket.create_server((address, 53), backlog=1024)
    chooser = selectors.DefaultSelector()
    chooser.register(listener, selectors.EVENT_READ, None)
    numbers = itertools.count(100_000_000)
    while True:
        for key, _ in chooser.select():
            if key.data is None:
                stream, _ = listener.accept()
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                chooser.register(stream, selectors.EVENT_READ, bytearray())
                continue
            stream, pending = key.fileobj, key.data
            assert isinstance(stream, socket.socket)
            try:
                data = stream.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                chooser.unregister(stream)
                stream.close()
                continue
            pending += data
            answers = []
            while len(pending) >= 2 and len(pending) >= (size := 2 + int.from_bytes(pending[:2], "big")):
                found = answer(bytes(pending[2:size]), next(numbers))
                answers.append(len(found).to_bytes(2, "big") + found)
                del pending[:size]
            if answers:
                stream.sendall(b"".join(answers))


def main() -> None:
    other = multiprocessing.Process(target=tcp, args=(sys.argv[1],), daemon=True)
    other.start()
    print("ready", flush=True)
    udp(sys.argv[1])


if __name__ == "__main__":
    main()
