# SPDX-License-Identifier: Apache-2.0
from l7proxy.answer import Answer
from l7proxy.head import ANY, RequestHead
from l7proxy.request_head import parse


def answer_to(head: bytes) -> Answer:
    request = parse(head)
    assert isinstance(request, RequestHead)
    return Answer(request)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_a_whole_answer_passes_without_being_copied() -> None:
    answer = answer_to(GET)
    assert answer.feed(OK) is OK
    assert answer.done


def test_an_answer_may_come_in_pieces() -> None:
    answer = answer_to(GET)
    assert answer.feed(OK[:10]) == b""
    assert answer.head is None
    assert answer.feed(OK[10:-3]) == OK[:-3]
    assert answer.head is not None
    assert not answer.done
    assert answer.feed(OK[-3:]) == OK[-3:]
    assert answer.done


def test_what_follows_an_answer_is_not_relayed() -> None:
    answer = answer_to(GET)
    assert answer.feed(OK + b"HTTP/1.1 200 OK\r\n") == OK
    assert answer.rest == b"HTTP/1.1 200 OK\r\n"


def test_interim_answers_come_before_the_final_one() -> None:
    answer = answer_to(GET)
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert answer.feed(interim) == interim
    assert answer.head is None
    assert answer.feed(interim + OK) == interim + OK
    assert answer.done


def test_an_old_client_gets_no_interim_answer() -> None:
    answer = answer_to(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert answer.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + OK) == OK


def test_interim_answers_have_an_end() -> None:
    answer = answer_to(GET)
    answer.feed(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
    assert answer.fault == "too many interim answers"


def test_head_has_no_body_whatever_the_length_says() -> None:
    answer = answer_to(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert answer.feed(head) == head
    assert answer.done


def test_an_answer_without_length_ends_with_the_connection() -> None:
    answer = answer_to(GET)
    answer.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert answer.endless
    assert not answer.done


def test_only_a_switch_that_was_asked_for_opens_a_tunnel() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00"
    asked = answer_to(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert asked.feed(switch) == switch
    assert asked.tunnel
    unasked = answer_to(GET)
    assert unasked.feed(switch) == b""
    assert unasked.fault == "server switched protocols unasked"


def test_connect_opens_a_tunnel_by_any_2xx_and_by_no_other() -> None:
    connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"
    opened = answer_to(connect)
    assert opened.feed(b"HTTP/1.1 204 Fine\r\nContent-Length: 3\r\n\r\nraw") == (
        b"HTTP/1.1 204 Fine\r\nContent-Length: 3\r\n\r\nraw"
    )
    assert opened.tunnel
    refused = answer_to(connect)
    refused.feed(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
    assert refused.done
    assert not refused.tunnel


def test_a_broken_chunk_is_a_fault_after_what_was_right() -> None:
    answer = answer_to(GET)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answer.feed(head + b"2\r\nhi\r\nzz\r\n") == head + b"2\r\nhi\r\n"
    assert answer.fault == "malformed chunk size"


def test_a_body_of_known_length_may_go_by_unseen_but_for_its_last_byte() -> None:
    answer = answer_to(GET)
    assert answer.unseen == 0
    answer.feed(OK.replace(b"5", b"500"))
    assert answer.unseen == 494
    answer.went_by(400)
    assert answer.unseen == 94
    answer.went_by(94)
    assert (answer.unseen, answer.done) == (0, False)
    assert answer.feed(b"x") == b"x"
    assert (answer.done, answer.size) == (True, 500)


def test_what_has_to_be_read_never_goes_by_unseen() -> None:
    for head, unseen in (
        (b"HTTP/1.1 200 OK\r\n\r\nhello", ANY),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\nhello", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 0),
        (OK, 0),
    ):
        answer = answer_to(GET)
        answer.feed(head)
        assert answer.unseen == unseen
