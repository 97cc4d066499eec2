# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: readers of what users and workloads write. Each target takes bytes, and may raise nothing.

Under pytest the kept corpora are replayed. To look for more (the extra `fuzz` brings atheris):

    python tests/fuzz/test_targets.py documents -max_total_time=300 tests/fuzz/corpus/documents examples/policies
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from l7policy.policydoc import Policy

CORPUS = Path(__file__).parent / "corpus"


def read_documents(data: bytes) -> None:
    """A policy file is refused with places, or means something to an endpoint."""
    from l7policy import documents  # noqa: PLC0415 - atheris wants to see the import
    from l7policy.entries import entries  # noqa: PLC0415
    from l7policy.errors import PolicyErrors  # noqa: PLC0415
    from l7policy.ids import ANY_IDENTITY, IdentityId  # noqa: PLC0415
    from l7policy.policydoc import Source  # noqa: PLC0415
    from l7policy.resolve import endpoint_policy  # noqa: PLC0415

    try:
        policies = documents.load([Source("fuzz.yaml", data.decode("utf-8", "surrogateescape"))])
    except PolicyErrors as refused:
        if not refused.errors or any(error.path != "fuzz.yaml" or not error.message for error in refused.errors):
            raise
        return
    labels = frozenset({"k8s:app=frontend", "k8s:io.kubernetes.pod.namespace=default"})
    policy = endpoint_policy(policies, labels)
    entries(policy, ANY_IDENTITY, None)
    entries(policy, IdentityId(256), labels)
    assert endpoint_policy(tuple(reversed(policies)), labels).digest == policy.digest


def read_names(data: bytes) -> None:
    """A pattern and a name, a line each: the matcher says what the documented regular expression says."""
    import re  # noqa: PLC0415

    import re2  # noqa: PLC0415 - `re` takes years for some of these

    from l7policy import names, scalars  # noqa: PLC0415

    pattern, _, name = data.decode("utf-8", "replace").partition("\n")
    try:
        peer = scalars.match_pattern(pattern)
        name = scalars.match_name(name).match_name
    except ValueError:
        return
    label = "[-a-zA-Z0-9_]"
    if not peer.match_pattern.removesuffix(".").strip("*"):
        expression = f"({label}+[.])+|[.]"
    else:
        text = peer.match_pattern
        leading = re.match(r"\*\*+[.]", text)
        prefix = f"{label}+([.]{label}+)*[.]" if leading else ""
        rest = text[leading.end() :] if leading else text
        expression = prefix + re.sub(r"\*+", f"{label}*", rest.replace(".", "[.]").replace("-", "[-]"))
    # No name on the wire is longer, so a longer one matches nothing.
    expected = len(name) <= 255 and re2.fullmatch(expression, name) is not None
    assert names.name_set((peer,)).matches(name) == expected, (peer, name)


def read_server_names(data: bytes) -> None:
    """A pattern of serverNames and a name, a line each: the matcher says what Cilium's regular expression says."""
    import re  # noqa: PLC0415

    import re2  # noqa: PLC0415 - `re` takes years for some of these

    from l7policy import sni  # noqa: PLC0415

    pattern, _, name = data.decode("utf-8", "replace").partition("\n")
    try:
        pattern = sni.check(pattern)
    except ValueError:
        return
    label = "[-a-z0-9_]"
    if pattern == "*":
        expression = f"{label}+([.]{label}+)*"
    else:
        words = {"**": f"{label}+([.]{label}+)*", "*": f"{label}*", ".": "[.]"}
        expression = "".join(words.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|[.])", pattern))
    expected = 0 < len(name) <= sni.MAX_PATTERN and name.isascii() and bool(re2.fullmatch(expression, name.lower()))
    assert sni.ServerNames([pattern]).matches(name) == expected, (pattern, name)


def read_cluster(data: bytes) -> None:
    """A cluster's YAML is refused with places, or every workload in it can be asked about by its name."""
    from l7policy import cluster, question  # noqa: PLC0415
    from l7policy.errors import PolicyErrors  # noqa: PLC0415
    from l7policy.policydoc import Source  # noqa: PLC0415

    try:
        found = cluster.read([Source("fuzz.yaml", data.decode("utf-8", "surrogateescape"))])
    except PolicyErrors as refused:
        if not refused.errors or any(error.path != "fuzz.yaml" or not error.message for error in refused.errors):
            raise
        return
    for name, endpoint in found.endpoints.items():
        assert question.side(name, found).labels == endpoint.labels


def read_expressions(data: bytes) -> None:
    """An HTTP expression and a path, a line each: refused, or matched in full and the same each time."""
    from l7policy import scalars  # noqa: PLC0415
    from l7policy.http import HttpRules  # noqa: PLC0415
    from l7policy.model import HttpRule  # noqa: PLC0415

    text, _, path = data.partition(b"\n")
    try:
        expression = scalars.expression(text.decode("utf-8", "replace"))
    except ValueError:
        return
    rules = HttpRules((HttpRule(path=expression),))
    first = rules.match(b"GET", path, b"example.com", ())
    assert rules.match(b"GET", path, b"example.com", ()) == first
    # With so many, RE2 compiles them into one set, and must say the same.
    others = tuple(HttpRule(path=f"\\x00{number}.*") for number in range(8))
    if not path.startswith(b"\0"):
        assert HttpRules((HttpRule(path=expression), *others)).match(b"GET", path, b"example.com", ()) == first


def read_labels(data: bytes) -> None:
    """Labels of a workload, a line each: refused, or in canonical form, and selected by what they say."""
    from l7policy import labels  # noqa: PLC0415
    from l7policy.model import LabelPeer, Operator, Requirement  # noqa: PLC0415
    from l7policy.selectors import matches  # noqa: PLC0415

    try:
        found = labels.workload_labels(data.decode("utf-8", "replace").split("\n"))
    except labels.LabelError:
        return
    assert labels.workload_labels(found) == found
    for key, value in map(labels.split, found):
        name = labels.selector_key(key.partition(":")[2]) if key != labels.NAMESPACE else key
        for one in (key, name):
            for operator, selected in ((Operator.IN, True), (Operator.NOT_IN, False)):
                peer = LabelPeer((Requirement(one, operator, (value,)),))
                assert matches(peer, found) == selected, (peer, found)
            assert matches(LabelPeer((Requirement(one, Operator.EXISTS),)), found)


def read_questions(data: bytes) -> None:
    """From, to, port, request, name and server name, a line each: no question, or one that is answered."""
    from l7policy import question  # noqa: PLC0415
    from l7policy.cluster import Cluster  # noqa: PLC0415
    from l7policy.explain import explain, plain  # noqa: PLC0415

    lines = (*data.decode("utf-8", "replace").split("\n"), *[""] * 6)
    source, destination, port, request, name, server_name = lines[:6]
    try:
        asked = question.ask(
            question.side(source, Cluster()),
            question.side(destination, Cluster()),
            port,
            http=question.request(request, "example.com", lines[6:16]) if request else None,
            dns=name or None,
            sni=server_name or None,
        )
    except question.QuestionError:
        return
    answer = explain(_example(), asked)
    assert plain(answer)["allowed"] == answer.allowed


@functools.cache
def _example() -> "tuple[Policy, ...]":
    """Policies for questions: the examples."""
    from l7policy import documents  # noqa: PLC0415
    from l7policy.policydoc import Source  # noqa: PLC0415

    folder = Path(__file__).parents[2] / "examples" / "policies"
    return documents.load([Source(one.name, one.read_text("utf-8")) for one in sorted(folder.glob("*.yaml"))])


def read_cases(data: bytes) -> None:
    """A file of policy tests is refused with places, or has cases."""
    from l7policy import cases  # noqa: PLC0415
    from l7policy.errors import PolicyErrors  # noqa: PLC0415
    from l7policy.policydoc import Source  # noqa: PLC0415

    try:
        found = cases.load(Source("fuzz.yaml", data.decode("utf-8", "surrogateescape")))
    except PolicyErrors as refused:
        if not refused.errors or any(error.path != "fuzz.yaml" or not error.message for error in refused.errors):
            raise
        return
    assert found.cases


def read_client_hello(data: bytes) -> None:
    """A TLS client's first bytes are a hello or refused, and it does not matter how they were cut."""
    from l7proxy.client_hello import ClientHello, HelloReader  # noqa: PLC0415
    from l7proxy.head import NEED_MORE  # noqa: PLC0415

    reader, pieces = HelloReader(), HelloReader()
    found = reader.feed(data)
    for byte in data:
        same = pieces.feed(bytes([byte]))
        if same is not NEED_MORE:
            break
    if data:
        assert same == found
    if isinstance(found, ClientHello):
        assert (pieces.size, found.name) == (reader.size, "" if found.fault else found.sent)


def read_requests(data: bytes) -> None:
    """A request head: read alike however it is cut, by both of our readers, and by h11 as it is sent on."""
    import h11  # noqa: PLC0415

    from l7proxy import request_head, rewritten_head  # noqa: PLC0415
    from l7proxy.head import NEED_MORE, RequestHead  # noqa: PLC0415

    found = request_head.parse(data)
    half = len(data) // 2
    first = request_head.parse(data[:half])
    assert found == (request_head.parse(data, half) if first is NEED_MORE else first)
    if not isinstance(found, RequestHead):
        return
    oracle = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    oracle.receive_data(found.raw)
    request = oracle.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.http_version) == (found.method, b"1.%d" % found.minor)
    assert request.target.endswith(found.path)
    assert dict(request.headers).get(b"host", found.host) == found.host or found.method == b"CONNECT"
    again = rewritten_head.read(found.raw, len(found.raw))
    assert isinstance(again, RequestHead)
    for field in ("method", "path", "host", "framing", "keep_alive", "minor", "expect", "upgrade"):
        assert getattr(again, field) == getattr(found, field), field


def read_answers(data: bytes) -> None:
    """A response head: read alike however it is cut, and by the quick reader as by the other."""
    from l7proxy import response_head  # noqa: PLC0415
    from l7proxy.head import NEED_MORE  # noqa: PLC0415

    found = response_head.parse(data)
    assert found == response_head._unusual(data, 0, response_head.MAX_RESPONSE_HEAD)
    half = len(data) // 2
    first = response_head.parse(data[:half])
    assert found == (response_head.parse(data, half) if first is NEED_MORE else first)


def read_chunks(data: bytes) -> None:
    """A chunked body: followed alike whole and byte by byte, to the end that h11 sees, if h11 takes it."""
    import h11  # noqa: PLC0415

    from l7proxy.framing import ChunkedBody  # noqa: PLC0415

    whole, single = ChunkedBody(), ChunkedBody()
    end = whole.feed(data, 0)
    held, taken = b"", 0
    for at in range(len(data)):
        held += data[at : at + 1]
        step = single.feed(held, 0)
        held, taken = held[step:], taken + step
        if single.done or single.fault:
            break
    assert (whole.done, whole.fault, end) == (single.done, single.fault, taken)
    if whole.done:
        oracle = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        oracle.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
        try:
            while not isinstance(event := oracle.next_event(), h11.EndOfMessage):
                assert event is not h11.NEED_DATA
        except h11.RemoteProtocolError:
            return
        assert len(oracle.trailing_data[0]) == len(data) - end


def read_dns_query(data: bytes) -> None:
    """A query is read in one way, and means the same when it is read again; every answer of ours fits it."""
    import dns.exception  # noqa: PLC0415
    import dns.message  # noqa: PLC0415

    from l7dns import message, names  # noqa: PLC0415
    from l7dns.message import Malformed, Rcode  # noqa: PLC0415

    found = message.parse_query(data)
    if isinstance(found, Malformed):
        assert found.reply is None or found.reply[:2] == data[:2]
        return
    assert message.parse_query(b"\0\0" + data[2:]) == found
    assert found.section == data[12 : 12 + len(found.section)]
    assert found.name == names.text(found.wire_name)
    assert names.expand(data, 12) == found.wire_name
    ours = dns.message.from_wire(message.reply(0x1234, found, Rcode.REFUSED))
    assert (ours.id, ours.rcode()) == (0x1234, Rcode.REFUSED)
    assert ours.question[0].name.to_wire() == found.section[:-4]
    try:
        theirs = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return  # stricter in what is behind the question, which is relayed as it is
    assert theirs.question[0].name.to_wire() == found.section[:-4]
    assert (theirs.question[0].rdtype, theirs.question[0].rdclass) == (found.qtype, found.qclass)


def read_dns_answer(data: bytes) -> None:
    """A first byte chooses the question, the rest is the answer: refused, or its addresses stand in it."""
    from unittest.mock import patch  # noqa: PLC0415

    from l7dns import answer, message, svcb  # noqa: PLC0415
    from l7dns.message import Question  # noqa: PLC0415
    from l7dns.names import WireError  # noqa: PLC0415

    qtype = (1, 28, 65, 255)[data[0] & 3] if data else 1
    name = b"\3www\7example\3com\0"
    question = message.parse_query(b"\0\7\1\0\0\1" + bytes(6) + name + qtype.to_bytes(2, "big") + b"\0\1")
    assert isinstance(question, Question)
    head = b"\0\7\x81\x80\0\1"
    for wire in (data[1:], head + data[1:7].ljust(6, b"\0") + question.section + data[7:]):
        found = answer.read(wire, question, 7, hints=True)
        with patch.object(answer, "_plain", return_value=None):
            assert answer.read(wire, question, 7, hints=True) == found
        if isinstance(found, answer.Answer):
            assert all(address in wire for address in found.addresses)
            assert found.addresses == () or found.rcode == 0
        try:
            stripped = svcb.strip(wire) if len(wire) >= 12 else wire
        except WireError:
            continue
        assert len(stripped) <= len(wire)
        assert svcb.strip(stripped) == stripped if len(wire) >= 12 else True


def read_dns_stream(data: bytes) -> None:
    """However a TCP stream is cut, the same messages come out of it."""
    from l7dns.frames import Frames  # noqa: PLC0415

    whole, pieces = Frames(), Frames()
    step = data[0] % 7 + 1 if data else 1
    messages = whole.feed(data[1:])
    found = [one for at in range(1, len(data), step) for one in pieces.feed(data[at : at + step])]
    assert (found, pieces.broken) == (messages, whole.broken)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "documents": read_documents,
    "names": read_names,
    "server_names": read_server_names,
    "expressions": read_expressions,
    "cluster": read_cluster,
    "labels": read_labels,
    "questions": read_questions,
    "cases": read_cases,
    "client_hello": read_client_hello,
    "requests": read_requests,
    "answers": read_answers,
    "chunks": read_chunks,
    "dns_query": read_dns_query,
    "dns_answer": read_dns_answer,
    "dns_stream": read_dns_stream,
}


@pytest.mark.parametrize(
    ("target", "path"),
    [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_the_kept_corpus_raises_nothing(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


def main() -> None:
    import atheris  # noqa: PLC0415 - not needed to replay

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["l7policy", "l7proxy", "l7dns"]):
        import l7dns.answer  # noqa: PLC0415
        import l7dns.frames  # noqa: F401, PLC0415
        import l7policy.cases  # noqa: PLC0415
        import l7policy.cluster  # noqa: PLC0415
        import l7policy.documents  # noqa: PLC0415
        import l7policy.http  # noqa: PLC0415
        import l7policy.names  # noqa: PLC0415
        import l7policy.sni  # noqa: F401, PLC0415
        import l7proxy.client_hello  # noqa: PLC0415
        import l7proxy.request_head  # noqa: PLC0415
        import l7proxy.response_head  # noqa: F401, PLC0415
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
