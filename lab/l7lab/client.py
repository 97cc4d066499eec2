# SPDX-License-Identifier: Apache-2.0
"""The client program that runs inside a workload: connects, sends, and reports each outcome as a line of JSON.

Started by `l7lab.traffic` as a script of its own, so it may import nothing but the standard library. What the network
does to it (silence, a reset, a refusal) is an outcome, never a failure of the program.

    client.py connect ADDRESS PORT TIMEOUT [SOURCE]     one TCP connection
    client.py tcp ADDRESS PORT TIMEOUT HEX              these bytes on a TCP connection, and all that comes back
    client.py udp ADDRESS PORT TIMEOUT HEX [SOURCE]     one datagram, and what comes back
    client.py http ADDRESS PORT INTERVAL JSON           requests without end, on one connection for as long as it lasts
    client.py dns ADDRESS NAME INTERVAL                 queries without end, each from a new socket
"""

import http.client
import json
import socket
import struct
import sys
import time
from collections.abc import Callable

# Socket options IP_TRANSPARENT and IPV6_TRANSPARENT, which the socket module does not name everywhere.
TRANSPARENT = {socket.AF_INET: (socket.IPPROTO_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
PATIENCE = 2.0


def report(**values: object) -> None:
    """Print one outcome."""
    print(json.dumps(values), flush=True)


def reason(error: OSError) -> str:
    """One word or two for what went wrong."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    return error.strerror or str(error)


def opened(address: str, kind: socket.SocketKind, timeout: float, source: str = "") -> socket.socket:
    """A socket that may claim a source address which is not its machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.settimeout(timeout)
    if source:
        sock.setsockopt(*TRANSPARENT[family], 1)
        sock.bind((source, 0))
    return sock


def connect(address: str, port: str, timeout: str, source: str = "") -> None:
    """Whether a connection opens."""
    with opened(address, socket.SOCK_STREAM, float(timeout), source) as sock:
        try:
            sock.connect((address, int(port)))
            report(open=True, error="")
        except OSError as error:
            report(open=False, error=reason(error))


def tcp(address: str, port: str, timeout: str, payload: str) -> None:
    """What a server, or whatever sits before it, makes of these bytes."""
    received = b""
    with opened(address, socket.SOCK_STREAM, float(timeout)) as sock:
        try:
            sock.connect((address, int(port)))
            sock.sendall(bytes.fromhex(payload))
            while data := sock.recv(65536):
                received += data
            report(received=received.hex(), error="", closed=True)
        except OSError as error:
            report(received=received.hex(), error=reason(error), closed=reason(error) == "reset")


def udp(address: str, port: str, timeout: str, payload: str, source: str = "") -> None:
    """One datagram and its answer."""
    with opened(address, socket.SOCK_DGRAM, float(timeout), source) as sock:
        try:
            sock.connect((address, int(port)))
            sock.send(bytes.fromhex(payload))
            report(received=sock.recv(65535).hex(), error="", closed=False)
        except OSError as error:
            report(received="", error=reason(error), closed=False)


def stream_http(address: str, port: str, interval: str, text: str) -> None:
    """The same request over and over; a new connection only when the old one ended."""
    request = json.loads(text)
    connection = http.client.HTTPConnection(address, int(port), timeout=PATIENCE)
    number = 0
    while True:
        began = time.time()
        try:
            if connection.sock is None:
                number += 1
                connection.connect()
            connection.request(request["method"], request["path"], headers=request["headers"])
            response = connection.getresponse()
            response.read()
            outcome = str(response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            outcome = reason(error) if isinstance(error, OSError) else type(error).__name__
        report(time=began, outcome=outcome, connection=number)
        if not request["keep_alive"]:
            connection.close()
        time.sleep(float(interval))


def stream_dns(server: str, name: str, interval: str) -> None:
    """The same question over and over."""
    number = 0
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".")) + b"\0\0\1\0\1"
    while True:
        number = number % 65535 + 1
        began = time.time()
        with opened(server, socket.SOCK_DGRAM, PATIENCE) as sock:
            try:
                sock.connect((server, 53))
                sock.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question)
                answer = sock.recv(65535)
                identifier, flags = struct.unpack_from("!HH", answer)
                outcome = RCODES.get(flags & 15, str(flags & 15)) if identifier == number else "wrong id"
            except OSError as error:
                outcome = reason(error)
        report(time=began, outcome=outcome, connection=number)
        time.sleep(float(interval))


VERBS: dict[str, Callable[..., None]] = {
    "connect": connect,
    "tcp": tcp,
    "udp": udp,
    "http": stream_http,
    "dns": stream_dns,
}

if __name__ == "__main__":
    VERBS[sys.argv[1]](*sys.argv[2:])
