# SPDX-License-Identifier: Apache-2.0
import asyncio
import socket

import pytest

from l7observe.tasks import Tasks
from l7proxy.sockets import CLIENT_MARK, UPSTREAM_MARK, dial, listener

FAMILIES = pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)


@FAMILIES
def test_a_listener_is_transparent_marked_and_on_loopback(family: socket.AddressFamily, address: str) -> None:
    with listener(family, 0) as sock:
        assert sock.getsockname()[0] == address
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == CLIENT_MARK
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockopt(*((socket.IPPROTO_IP, 19) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 75)))


def test_several_processes_may_share_a_port() -> None:
    with listener(socket.AF_INET, 0) as first, listener(socket.AF_INET, first.getsockname()[1]) as second:
        assert first.getsockname() == second.getsockname()


def test_a_listener_may_have_an_address_that_is_not_ours() -> None:
    with listener(socket.AF_INET, 80, "198.51.100.7") as sock:
        assert sock.getsockname() == ("198.51.100.7", 80)


@FAMILIES
def test_a_server_sees_the_clients_address_and_port(family: socket.AddressFamily, address: str) -> None:
    client = (address, free_port(family, address))
    with (
        socket.create_server((address, 0), family=family) as server,
        asyncio.run(dial(client, server.getsockname()[:2])) as sock,
    ):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == UPSTREAM_MARK
        accepted, peer = server.accept()
        accepted.close()
        assert peer[:2] == client


def test_a_port_that_is_taken_is_given_up() -> None:
    client = ("127.0.0.1", free_port(socket.AF_INET, "127.0.0.1"))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        asyncio.run(dial(client, server.getsockname())) as first,
        asyncio.run(dial(client, server.getsockname())) as second,
    ):
        assert first.getsockname() == client
        assert second.getsockname()[0] == "127.0.0.1"
        assert second.getsockname() != client


def test_a_refusal_is_an_oserror() -> None:
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(dial(("127.0.0.1", 0), ("127.0.0.1", free_port(socket.AF_INET, "127.0.0.1"))))


def test_a_server_that_does_not_answer_at_once_is_waited_for() -> None:
    async def scenario() -> None:
        with socket.socket() as server, socket.socket() as waiting:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            waiting.connect(server.getsockname())
            # The queue is full: the kernel ignores who comes now, until there is room and it asks again a second later.
            dialling = Tasks().start(dial(("127.0.0.1", 0), server.getsockname()), name="dial")
            await asyncio.sleep(0.1)
            assert not dialling.done()
            server.accept()[0].close()
            async with asyncio.timeout(10):
                with await dialling as sock:
                    assert sock.getpeername() == server.getsockname()

    asyncio.run(scenario())


def free_port(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port
