# SPDX-License-Identifier: Apache-2.0
import h11
import pytest

from l7proxy.replies import ACCESS_DENIED, reply


@pytest.mark.parametrize(("method", "body"), [(b"GET", ACCESS_DENIED), (b"HEAD", b"")])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_an_independent_client_reads_the_answer(method: bytes, body: bytes, keep_alive: bool) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(reply(403, ACCESS_DENIED, keep_alive=keep_alive, method=method))
    head = client.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == 403
    assert dict(head.headers)[b"content-length"] == b"15"
    if body:
        data = client.next_event()
        assert isinstance(data, h11.Data)
        assert data.data == body
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert (client.their_state is h11.DONE) is keep_alive


def test_the_denial_is_the_one_that_clients_know() -> None:
    assert reply(403, ACCESS_DENIED, keep_alive=True) == (
        b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\r\nAccess denied\r\n"
    )


def test_an_old_client_is_told_that_it_may_stay() -> None:
    assert b"\r\nconnection: keep-alive\r\n" in reply(403, b"", keep_alive=True, minor=0)
