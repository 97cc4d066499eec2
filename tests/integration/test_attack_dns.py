# SPDX-License-Identifier: Apache-2.0
"""Raw bytes to the DNS proxy: each query gets an answer, and no name server sees a question that policy forbids."""

import json
import subprocess
import sys
from collections.abc import Iterator

import dns.message
import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.process import Process, wait_until

PER_SECOND = 200
RESOLVER, OTHER, PORT = "192.0.2.10", "192.0.2.67", 5353
POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names, namespace: shop}}
spec:
  endpointSelector: {{matchExpressions: [{{key: app, operator: In, values: [frontend, batch]}}]}}
  egress:
  - toCIDR: [{RESOLVER}/32]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchName: api.example.com}}]}}
  - toCIDR: [{OTHER}/32]
    toPorts:
    - ports: [{{port: "{PORT}", protocol: ANY}}]
      rules: {{dns: [{{matchPattern: "*.port.example.com"}}]}}
  - toFQDNs: [{{matchName: api.example.com}}, {{matchPattern: "*.port.example.com"}}]
    toPorts: [{{ports: [{{port: "80", protocol: TCP}}]}}]
"""

# Sends each message of standard input (hexadecimal, a line each) and prints the answers, "" for none.
CLIENT = """
import json, socket, sys
server, port, transport = sys.argv[1], int(sys.argv[2]), sys.argv[3]
answers = []
for line in sys.stdin:
    message = bytes.fromhex(line)
    try:
        if transport == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(3)
                sock.connect((server, port))
                sock.send(message)
                answers.append(sock.recv(4096).hex())
        else:
            with socket.create_connection((server, port), 3) as sock, sock.makefile("rb") as stream:
                sock.sendall(len(message).to_bytes(2, "big") + message)
                answers.append(stream.read(int.from_bytes(stream.read(2), "big")).hex())
    except OSError:
        answers.append("")
print(json.dumps(answers))
"""
SERVER = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind((sys.argv[1], int(sys.argv[2])))
while True:
    query, client = made.recvfrom(4096)
    end = query.index(b"\\0", 12) + 5
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("198.51.100.3")
    made.sendto(query[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + query[12:end] + record, client)
"""

HEAD = b"\xab\xcd\1\0\0\1\0\0\0\0\0\0"
ALLOWED = b"\3api\7example\3com\0"
FORBIDDEN = b"\6secret\7example\3net\0"
IN_A = b"\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def counted(questions: int, additional: int = 0, flags: bytes = b"\1\0") -> bytes:
    return b"\xab\xcd" + flags + bytes((0, questions, 0, 0, 0, 0, 0, additional))


HOSTILE = {
    "forbidden": HEAD + FORBIDDEN + IN_A,
    "forbidden in capitals": HEAD + FORBIDDEN.upper().replace(b"\x06SECRET", b"\x06SeCrEt") + IN_A,
    "allowed below forbidden": HEAD + b"\3api\7example\3com\6secret\0" + IN_A,
    "a dot inside a label": HEAD + b"\x0bapi.example\3com\0" + IN_A,
    "a NUL inside a label": HEAD + b"\4api\0\7example\3com\0" + IN_A,
    "a star": HEAD + b"\1*\7example\3com\0" + IN_A,
    "a label of 64 bytes": HEAD + b"\x40" + b"a" * 64 + ALLOWED + IN_A,
    "a label of 63 bytes": HEAD + b"\x3f" + b"a" * 63 + ALLOWED + IN_A,
    "a name of 255 bytes": HEAD + (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0" + IN_A,
    "a name of 256 bytes": HEAD + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0" + IN_A,
    "a pointer to itself": HEAD + b"\xc0\x0c" + IN_A,
    "a pointer behind": HEAD + b"\xc0\x12" + IN_A + FORBIDDEN,
    "no question": counted(0),
    "two questions, the first allowed": counted(2) + ALLOWED + IN_A + FORBIDDEN + IN_A,
    "more behind the question": HEAD + ALLOWED + IN_A + FORBIDDEN + IN_A,
    "a second question announced and missing": counted(2) + ALLOWED + IN_A,
    "opcode IQUERY": counted(1, flags=b"\x08\0") + FORBIDDEN + IN_A,
    "opcode UPDATE": counted(1, flags=b"\x28\0") + FORBIDDEN + b"\0\6\0\1",
    "opcode 15": counted(1, flags=b"\x78\0") + FORBIDDEN + IN_A,
    "class CHAOS": HEAD + FORBIDDEN + b"\0\x10\0\3",
    "class ANY": HEAD + FORBIDDEN + b"\0\1\0\xff",
    "class 0": HEAD + FORBIDDEN + b"\0\1\0\0",
    "a zone transfer of an allowed name": HEAD + ALLOWED + b"\0\xfc\0\1",
    "EDNS version 7": counted(1, 1) + FORBIDDEN + IN_A + b"\0\0\x29\x04\xd0\0\7\0\0\0\0",
    "two OPT records": counted(1, 2) + FORBIDDEN + IN_A + OPT + OPT,
    "an OPT record cut short": counted(1, 1) + FORBIDDEN + IN_A + OPT[:-2],
    "a response": counted(1, flags=b"\x81\x80") + FORBIDDEN + IN_A,
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "names.yaml").write_text(POLICY)
    with Lab() as lab:
        audit = {"path": str(lab.folder / "audit.jsonl"), "refused_names_per_second": 100}
        gate = Gate(lab, folder, {"dns": {"queries_per_second": PER_SECOND}, "audit": audit})
        gate.start()
        gate.add_all()
        outside = lab.outside.namespace
        outside.ip([f"addr add {OTHER}/24 dev ext0"])
        server = Process(outside, [sys.executable, "-I", "-S", "-c", SERVER, OTHER, str(PORT)], folder / "server.log")
        server.wait_listening(PORT, protocol="udp")
        try:
            yield gate
        finally:
            server.stop()
        assert "Traceback" not in (lab.folder / "l7d.log").read_text()


def answers(gate: Gate, messages: list[bytes], transport: str, server: str = RESOLVER, port: int = 53) -> list[bytes]:
    argv = [sys.executable, "-I", "-S", "-c", CLIENT, server, str(port), transport]
    done = gate.lab.frontend.namespace.run(argv, stdin="".join(f"{one.hex()}\n" for one in messages), timeout=100)
    assert done.returncode == 0, done.stderr
    return [bytes.fromhex(one) for one in json.loads(done.stdout)]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_each_query_gets_an_answer_and_no_forbidden_one_is_asked_on(asked: Gate, transport: str) -> None:
    before = len(asked.lab.resolver.seen())
    found = dict(zip(HOSTILE, answers(asked, list(HOSTILE.values()), transport), strict=True))
    assert [what for what, answer in found.items() if not answer] == []
    for what, answer in found.items():
        assert answer[:2] == b"\xab\xcd", what
        assert answer[2] & 0x80, what
        assert answer[3] & 0x0F in (1, 4, 5), (what, answer.hex())  # FORMERR, NOTIMP, REFUSED
        assert answer[6:8] == b"\0\0", what
    assert asked.lab.resolver.seen()[before:] == []
    # The proxy is as well as before.
    assert traffic.dns(asked.lab.frontend.namespace, "api.example.com", tcp=transport == "tcp").rcode == "NOERROR"
    assert [seen.name for seen in asked.lab.resolver.seen()[before:]] == ["api.example.com"]


def test_lengths_of_a_stream_that_promise_too_much_or_too_little_hang_nobody(asked: Gate) -> None:
    frontend = asked.lab.frontend.namespace
    program = (
        "import socket, sys\n"
        f"half = socket.create_connection(({RESOLVER!r}, 53), 5)\n"
        "half.sendall(b'\\xff\\xff' + b'x' * 100)\n"
        f"short = socket.create_connection(({RESOLVER!r}, 53), 5)\n"
        "short.sendall(b'\\0\\3abc')\n"
        "print(short.recv(10))\n"
    )
    done = frontend.run([sys.executable, "-I", "-S", "-c", program])
    assert (done.returncode, done.stdout) == (0, "b''\n"), done.stderr
    assert traffic.dns(frontend, "api.example.com", tcp=True).rcode == "NOERROR"


def test_names_are_judged_and_learnt_on_any_port_that_a_rule_names(asked: Gate) -> None:
    frontend = asked.lab.frontend.namespace
    assert not traffic.connect(frontend, "198.51.100.3", 80, timeout=0.4).open
    allowed = HEAD + b"\1a\4port\7example\3com\0" + IN_A
    found = answers(asked, [allowed, HEAD + ALLOWED + IN_A], "udp", OTHER, PORT)
    assert [dns.message.from_wire(one).rcode() for one in found] == [0, 5]
    assert traffic.connect(frontend, "198.51.100.3", 80).open
    rows = asked.must("fqdn", "cache", "list", "-p", "a.port.example.com", "-o", "json").json
    assert [row["resolver"] for row in rows] == [f"{OTHER}:{PORT}"]
    wait_until(
        lambda: any(record["dns"]["query"] == "api.example.com" for record in asked.audit() if "dns" in record),
        "the refused question",
    )


# Sends as many as it can at once, and prints how many answers of each kind came.
FLOOD = """
import collections, select, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
sock.connect((sys.argv[1], 53))
message, kinds, awaited = bytes.fromhex(sys.argv[2]), collections.Counter(), set()
for number in range(int(sys.argv[3])):
    sock.send(number.to_bytes(2, "big") + message[2:])
    awaited.add(number)
    while select.select([sock], [], [], 5 if len(awaited) > 100 or number == int(sys.argv[3]) - 1 else 0)[0]:
        answer = sock.recv(2048)
        awaited.discard(int.from_bytes(answer[:2], "big"))
        kinds[answer[3] & 15] += 1
        if not awaited:
            break
print(kinds[0], kinds[2], kinds[5], len(awaited))
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_a_flood_of_questions_is_limited_answered_and_nobody_elses_loss(asked: Gate, allowed: bool) -> None:
    frontend, batch, count = asked.lab.frontend.namespace, asked.lab.batch.namespace, 3000
    before = len(asked.lab.resolver.seen())
    message = HEAD + (ALLOWED if allowed else FORBIDDEN) + IN_A
    argv = [sys.executable, "-I", "-S", "-c", FLOOD, RESOLVER, message.hex(), str(count)]
    with subprocess.Popen(frontend.inside(argv), stdout=subprocess.PIPE, text=True) as flood:
        assert traffic.dns(batch, "api.example.com").rcode == "NOERROR"
        out, _ = flood.communicate(timeout=60)
    passed, limited, refused, unanswered = map(int, out.split())
    assert (passed + limited + refused, unanswered) == (count, 0)
    asked_on = [seen.name for seen in asked.lab.resolver.seen()[before:]]
    if allowed:
        assert refused == 0
        assert PER_SECOND <= passed < count / 2
        assert asked_on.count("api.example.com") == passed + 1  # the other workload's
    else:
        assert (passed, limited) == (0, 0)
        assert "secret.example.net" not in asked_on
        # Of a flood of refusals as many have a record as one workload may have; the rest is counted.
        records = [one for one in asked.audit() if "dns" in one and one["dns"]["query"] == "secret.example.net"]
        wait_until(lambda: asked.status()["audit"]["left_out"] > count / 2, "what was left out to be counted")
        assert len(records) < count / 2
