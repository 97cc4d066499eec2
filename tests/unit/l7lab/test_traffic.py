# SPDX-License-Identifier: Apache-2.0
from l7lab import traffic
from l7lab.traffic import Record

ANSWER = """
; <<>> DiG 9.18 <<>> @192.0.2.10 www.cdn.example.com A
;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1
;; flags: qr aa rd ra; QUERY: 1, ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 1

;; QUESTION SECTION:
;www.cdn.example.com.		IN	A

;; ANSWER SECTION:
www.cdn.example.com.	60	IN	CNAME	edge.cdn.example.net.
edge.cdn.example.net.	60	IN	A	198.51.100.2

;; Query time: 0 msec
"""


def test_an_answer_gives_its_records_and_addresses() -> None:
    result = traffic.read_dig(ANSWER)
    assert (result.rcode, result.error) == ("NOERROR", "")
    assert result.answers == (
        Record("www.cdn.example.com", 60, "CNAME", "edge.cdn.example.net."),
        Record("edge.cdn.example.net", 60, "A", "198.51.100.2"),
    )
    assert result.addresses == ("198.51.100.2",)
    assert str(result) == "NOERROR 198.51.100.2"


def test_a_refusal_is_an_answer() -> None:
    assert str(traffic.read_dig(";; ->>HEADER<<- opcode: QUERY, status: REFUSED, id: 7\n")) == "REFUSED"


def test_silence_is_a_timeout() -> None:
    result = traffic.read_dig(";; communications error to 192.0.2.10#53: timed out\n;; no servers could be reached\n")
    assert (result.rcode, result.error) == ("", "timeout")


def test_the_question_is_a_dns_query() -> None:
    assert traffic.question("a.example.", 258) == bytes.fromhex(
        "01020100000100000000000001610765" + "78616d706c6500" + "00010001"
    )
