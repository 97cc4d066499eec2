# SPDX-License-Identifier: Apache-2.0
"""What a name server says reaches the client byte for byte: every type, signatures, compression, options and all."""

import struct

import dns.flags
import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l7dns.message import Question
from l7dns.transaction import Answered, Learn, Transaction
from l7policy.verdict import Direction, Reason

NAME = "www.example.com."
RECORDS = {
    "A": "192.0.2.1",
    "AAAA": "2001:db8::1",
    "AFSDB": "1 afs.example.com.",
    "AMTRELAY": "10 0 1 192.0.2.1",
    "APL": "1:192.0.2.0/24 !1:192.0.2.64/28",
    "CAA": '0 issue "ca.example.net"',
    "CDNSKEY": "257 3 13 AAAAAAAAAAAAAAAAAAAAAAAA",
    "CDS": "12345 13 2 " + "ab" * 32,
    "CERT": "1 12345 13 AAAAAAAA",
    "CSYNC": "66 3 A NS AAAA",
    "DHCID": "AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=",
    "DNAME": "other.example.net.",
    "DNSKEY": "257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==",
    "DS": "12345 13 2 " + "cd" * 32,
    "EUI48": "00-00-5e-00-53-2a",
    "HINFO": '"host" "system"',
    "HTTPS": "1 . alpn=h2,h3 ipv4hint=192.0.2.9 ipv6hint=2001:db8::9",
    "LOC": "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
    "MX": "10 mail.example.com.",
    "NAPTR": '100 10 "u" "sip+E2U" "!^.*$!sip:information@example.com!i" .',
    "NS": "ns.example.com.",
    "NSEC": "a.www.example.com. A RRSIG NSEC TYPE1234",
    "NSEC3": "1 1 12 aabbccdd 2vptu5timamqttgl4luu9kg21e0aor3s A RRSIG",
    "NSEC3PARAM": "1 0 12 aabbccdd",
    "OPENPGPKEY": "AAAAAAAA",
    "PTR": "other.example.com.",
    "RP": "admin.example.com. text.example.com.",
    "RRSIG": "A 13 3 3600 20300101000000 20200101000000 12345 example.com. " + "AAAA" * 21 + "AA==",
    "SMIMEA": "3 1 1 " + "ef" * 32,
    "SOA": "ns.example.com. admin.example.com. 1 7200 3600 1209600 3600",
    "SPF": '"v=spf1 -all"',
    "SRV": "1 2 443 other.example.com.",
    "SSHFP": "4 2 " + "01" * 32,
    "SVCB": "1 svc.example.com. port=8443 ipv4hint=192.0.2.9",
    "TLSA": "3 1 1 " + "23" * 32,
    "TXT": '"one" "two"',
    "URI": '10 1 "https://example.com/"',
    "ZONEMD": "2018031500 1 1 " + "45" * 48,
    "TYPE65280": r"\# 4 deadbeef",
}


class Allowed:
    allowed, audited, reason, rule, policies = True, False, Reason.NONE, "", ()
    direction, endpoint = Direction.EGRESS, 1

    def dns(self, name: str) -> "Allowed":
        return self


def relayed(query: bytes, response: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """What the client gets, and the addresses that were learnt from it."""
    transaction = Transaction()
    assert isinstance(transaction.begin(query, Allowed()), Question)
    transaction.forward(0x4321)
    step = transaction.received(b"\x43\x21" + response[2:])
    learnt: tuple[bytes, ...] = ()
    if isinstance(step, Learn):
        learnt = step.addresses
        step = transaction.learnt()
    assert isinstance(step, Answered)
    assert step.wire is not None
    assert step.reason == Reason.NONE, step.detail
    return step.wire, learnt


@pytest.mark.parametrize("kind", RECORDS)
def test_a_signed_answer_of_every_type_is_relayed_untouched(kind: str) -> None:
    query = dns.message.make_query(NAME, kind, want_dnssec=True, payload=4096, id=0x1234)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AD | dns.flags.RA
    response.answer = [dns.rrset.from_text(NAME, 300, "IN", kind, RECORDS[kind])]
    if kind != "RRSIG":
        signature = RECORDS["RRSIG"].replace("A 13", f"{kind} 13", 1)
        response.answer.append(dns.rrset.from_text(NAME, 300, "IN", "RRSIG", signature))
    response.authority = [dns.rrset.from_text("example.com.", 300, "IN", "NS", "ns.example.com.")]
    response.additional = [dns.rrset.from_text("ns.example.com.", 300, "IN", "A", "192.0.2.53")]
    wire = response.to_wire()
    assert wire.count(b"\xc0") >= 3  # compressed
    got, learnt = relayed(query.to_wire(), wire)
    assert got == wire
    # Only addresses, and hints of SVCB records, that the asked name has; not those of its name server.
    wanted = {"A": (b"\xc0\0\2\1",), "HTTPS": (b"\xc0\0\2\x09",), "SVCB": (b"\xc0\0\2\x09",)}
    assert {address for address in learnt if len(address) == 4} == set(wanted.get(kind, ()))
    assert (any(len(address) == 16 for address in learnt)) == (kind in ("AAAA", "HTTPS"))
    theirs = dns.message.from_wire(got)
    assert theirs.answer == response.answer


TYPES = st.integers(1, 65535).filter(lambda number: number not in {41, 249, 250, 251, 252, 253, 254, 255})
OWNERS = st.sampled_from([b"\xc0\x0c", b"\xc0\x10", b"\3www\7example\3com\0", b"\3WWW\xc0\x10", b"\0"])


@given(
    TYPES,
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), OWNERS, TYPES, st.binary(max_size=40)), max_size=8),
    st.sampled_from([0, 3]),
    st.booleans(),
)
@settings(max_examples=300)
def test_records_of_any_type_and_content_are_relayed_untouched(
    qtype: int, records: list[tuple[int, bytes, int, bytes]], rcode: int, edns: bool
) -> None:
    # What is read for learning has to be well formed, or the whole answer is withheld: other tests are about that.
    read = {1, 5, 28, 64, 65}
    records = sorted((one for one in records if one[2] not in read), key=lambda one: one[0])
    query = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0) + b"\3www\7example\3com\0" + struct.pack("!2H", qtype, 1)
    counts = [sum(one[0] == section for one in records) for section in (0, 1, 2)]
    counts[2] += edns
    wire = struct.pack("!6H", 0x1234, 0x8180 | rcode, 1, *counts) + query[12:]
    for _, owner, rtype, data in records:
        wire += owner + struct.pack("!HHIH", rtype, 1, 300, len(data)) + data
    if edns:
        wire += b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000, 12) + struct.pack("!HH", 10, 8) + b"cookie!!"
    assert relayed(query, wire) == (wire, ())
