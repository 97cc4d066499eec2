# SPDX-License-Identifier: Apache-2.0
"""What the HTTP proxy holds of many and of large: 10,000 connections that wait, and bodies of 10 GB each way.

Run by hand, as root: `.venv/bin/python bench/httpendurance.py [CONNECTIONS [GIGABYTES]]`. Two workers, as each
connection takes two files of a process. Prints their memory (MiB together, the largest seen while bodies pass), and one
flat JSON object.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import httprules
from httplab import NGINX, SERVER
from machine import machine, rss_mb

from l7lab import Lab
from l7lab.gate import Gate
from l7lab.namespace import LabError

NGINX_PORT, BODY_PORT = httprules.COUNTS[10], httprules.COUNTS[100]
PATH = f"{httprules.ALLOWED}x"
WAITING = """
import socket, sys
address, port, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
def ask(held):
    held.sendall(f"GET {path} HTTP/1.1\\r\\nHost: bench.example\\r\\n\\r\\n".encode())
    return held.recv(4096).startswith(b"HTTP/1.1 200")
held = [socket.create_connection((address, port), 30) for _ in range(count)]
print(sum(map(ask, held)), flush=True)
sys.stdin.readline()
print(sum(map(ask, held)), flush=True)
"""
BODIES = """
import re, socket, sys, threading
size = int(sys.argv[2])
block = bytes(1 << 20)
def serve(peer):
    with peer:
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            head += peer.recv(65536)
        head, _, body = head.partition(b"\\r\\n\\r\\n")
        got = len(body)
        if head.startswith(b"GET"):
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
            for _ in range(size >> 20):
                peer.sendall(block)
            return
        buffer, tail = bytearray(1 << 20), body[-5:]
        length = re.search(rb"(?i)content-length: (\\d+)", head)
        while got < int(length[1]) if length else tail != b"0\\r\\n\\r\\n":
            read = peer.recv_into(buffer)
            got, tail = got + read, (tail + buffer[max(0, read - 5):read])[-5:]
        told = b"%d" % got
        peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(told), told))
with socket.create_server(("", int(sys.argv[1]))) as listener:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class Watch:
    """The largest memory of some processes until `peak` is asked."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids, self._most, self._done = pids, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self._most = max(self._most, memory(self._pids))

    def peak(self) -> float:
        """MiB."""
        self._done.set()
        self._thread.join()
        return round(self._most, 1)


def memory(pids: Sequence[int]) -> float:
    """MiB of all of them."""
    return sum(map(rss_mb, pids))


def waiting(lab: Lab, workers: Sequence[int], count: int) -> dict[str, float]:
    """Connections that have asked once and wait, what they cost, and whether they are still good."""
    before = memory(workers)
    argv = [sys.executable, "-I", "-S", "-c", WAITING, SERVER, str(NGINX_PORT), str(count), PATH]
    began = time.perf_counter()
    with subprocess.Popen(
        lab.frontend.namespace.inside(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin
        assert client.stdout
        first = int(client.stdout.readline())
        opened, held = time.perf_counter() - began, memory(workers)
        new = curl(lab, ["-w", "%{time_total}", f"http://{SERVER}:{NGINX_PORT}{PATH}"])
        client.stdin.close()
        again = int(client.stdout.readline())
    if (first, again) != (count, count):
        raise LabError(f"{count} connections: {first} were answered, and {again} later")
    return {
        "connections": count,
        "connections_seconds": round(opened, 1),
        "rss_before_mb": round(before, 1),
        "rss_connections_mb": round(held, 1),
        "kib_per_connection": round((held - before) * 1024 / count, 1),
        "new_one_ms": round(float(new.split()[-1]) * 1000, 1),
    }


def curl(lab: Lab, arguments: list[str], stdin: str | None = None) -> str:
    """What it prints. Raises LabError."""
    argv = ["curl", "-sS", "--fail", "--max-time", "600", *arguments]
    done = lab.frontend.namespace.run(["sh", "-c", stdin, "sh", *argv] if stdin else argv, timeout=700)
    if done.returncode:
        raise LabError(f"curl {arguments}: {done.stderr.strip()}")
    return done.stdout


def bodies(lab: Lab, workers: Sequence[int], size: int) -> dict[str, float]:
    """One each way, and one up in chunks: gigabytes a second, and the worker's largest memory."""
    url = f"http://{SERVER}:{BODY_PORT}{PATH}"
    sparse = lab.folder / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    found: dict[str, float] = {"body_gb": size / 1e9}
    ways = {
        "down": (["-o", "/dev/null", "-w", "%{size_download}"], None),
        "up": (["-T", str(sparse), "-H", "Expect:"], None),
        "up_chunked": (["-T", "-", "-H", "Expect:"], f'head -c {size} /dev/zero | "$@"'),
    }
    for name, (arguments, stdin) in ways.items():
        watch, began = Watch(workers), time.perf_counter()
        told = int(curl(lab, [*arguments, url], stdin))
        found[f"{name}_gbytes_s"] = round(size / 1e9 / (time.perf_counter() - began), 2)
        found[f"rss_{name}_mb"] = watch.peak()
        if told < size:
            raise LabError(f"{name}: {told} of {size} bytes came")
    return found


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    size = int(float(sys.argv[2] if len(sys.argv) > 2 else 10) * 1000) << 20
    with Lab() as lab:
        config = lab.folder / "nginx.conf"
        listen = f"listen {NGINX_PORT} backlog=4096;"
        config.write_text(NGINX.format(folder=lab.folder, listen=listen, certificates=lab.web.folder))
        argv = ["nginx", "-p", str(lab.folder), "-c", str(config), "-e", str(lab.folder / "error.log")]
        lab.start(lab.outside, argv, "nginx").wait_listening(NGINX_PORT)
        argv = [sys.executable, "-I", "-S", "-c", BODIES, str(BODY_PORT), str(size)]
        lab.start(lab.outside, argv, "bodies").wait_listening(BODY_PORT)
        lab.frontend.namespace.sysctl({"net.ipv4.ip_local_port_range": "10000 65000"})
        policies = lab.folder / "given"
        policies.mkdir()
        (policies / "bench.yaml").write_text(httprules.policy(SERVER))
        http = {"max_connections": count + 100, "max_connections_per_endpoint": count + 100}
        gate = Gate(lab, policies, {"http_workers": 2, "access_log": True, "http": http})
        gate.start()
        gate.add(lab.frontend)
        workers = tuple(gate.workers().values())
        found = waiting(lab, workers, count)
        print(found, file=sys.stderr, flush=True)
        found |= bodies(lab, workers, size)
        found["rss_agent_mb"] = round(rss_mb(gate.agent.pid), 1)
    print(machine(), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
