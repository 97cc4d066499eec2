# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy between a real dig and a real dnsmasq: what it carries, and what it learns from that."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dns.message
import pytest

from l7lab.namespace import environment

CLIENT_V4, CLIENT_V6 = "192.0.2.2", "2001:db8::2"
RESOLVER_V4, RESOLVER_V6 = "198.51.100.53", "2001:db8:53::53"
NOBODY = "198.51.100.54"
LIAR = "198.51.100.55"
BLACKHOLE = "198.51.100.99"


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("resolver", [RESOLVER_V4, RESOLVER_V6])
def test_an_allowed_name_resolves_and_its_addresses_are_in_the_tables(
    net: Any, proxy: Any, transport: str, resolver: str
) -> None:
    assert net.dig(transport, "+short", f"@{resolver}", "www.example.com", "A") == "203.0.113.80\n"
    assert net.dig(transport, "+short", f"@{resolver}", "www.example.com", "AAAA") == "2001:db8:80::80\n"
    said = proxy.tell()
    assert {"203.0.113.80", "2001:db8:80::80"} <= set(said["tables"])
    rows = {row["address"]: row for row in said["cache"] if row["name"] == "www.example.com"}
    assert set(rows) == {"203.0.113.80", "2001:db8:80::80"}
    assert all(70 < row["ttl"] <= 78 and row["endpoints"] == [9] for row in rows.values())
    assert rows["203.0.113.80"]["selectors"] == ["fqdn:**.example.com"]
    assert rows["203.0.113.80"]["identity"] == said["tables"]["203.0.113.80"]
    flow = proxy.flow("www.example.com", protocol=6 if transport == "+tcp" else 17, rule="test/dns egress[0]")
    assert flow["verdict"] == 1
    assert flow["destination"]["port"] == 53


def test_the_name_server_sees_the_client_and_not_the_node(net: Any, proxy: Any) -> None:
    net.dig(f"@{RESOLVER_V4}", "n1.example.com")
    net.dig("+tcp", f"@{RESOLVER_V6}", "n2.example.com")
    log = net.log.read_text()
    assert f"query[A] n1.example.com from {CLIENT_V4}" in log
    assert f"query[A] n2.example.com from {CLIENT_V6}" in log


def test_letters_keep_their_case_and_names_do_not(net: Any, proxy: Any) -> None:
    said = net.dig(f"@{RESOLVER_V4}", "wWw.ExAmPle.cOm")
    assert ";wWw.ExAmPle.cOm." in said
    assert "203.0.113.80" in said
    assert all(row["name"] == row["name"].lower() for row in proxy.tell()["cache"])


def test_an_alias_teaches_the_asked_name_with_the_lowest_ttl(net: Any, proxy: Any) -> None:
    net.dig(f"@{RESOLVER_V4}", "alias.example.com")
    rows = [row for row in proxy.tell()["cache"] if row["name"] == "alias.example.com"]
    assert [row["address"] for row in rows] == ["203.0.113.80"]
    assert rows[0]["ttl"] <= 34


def test_a_long_answer_arrives_in_fragments_or_truncated_and_then_over_tcp(net: Any, proxy: Any) -> None:
    whole = net.dig("+bufsize=4096", "+notcp", "+ignore", f"@{RESOLVER_V4}", "many.example.com")
    assert whole.count("203.0.113.") >= 100
    assert "tc" not in whole.split(";; flags: ")[1].split(";")[0].split()
    assert (
        net.dig("+bufsize=4096", "+notcp", "+ignore", f"@{RESOLVER_V6}", "many.example.com").count("203.0.113.") >= 100
    )
    short = net.dig("+bufsize=512", "+ignore", f"@{RESOLVER_V4}", "many.example.com")
    assert "tc" in short.split(";; flags: ")[1].split(";")[0].split()
    assert net.dig("+bufsize=512", "+short", f"@{RESOLVER_V4}", "many.example.com").count("203.0.113.") == 100
    rows = [row for row in proxy.tell()["cache"] if row["name"] == "many.example.com"]
    assert len({row["address"] for row in rows}) == 100
    # What each server says is kept apart.
    assert {row["server"] for row in rows} == {RESOLVER_V4, RESOLVER_V6}
    assert net.dig("+tcp", f"@{RESOLVER_V4}", "long.example.com", "TXT").count("jjjj") > 0


def test_other_types_and_missing_names_pass_and_teach_nothing(net: Any, proxy: Any) -> None:
    assert "status: NXDOMAIN" in net.dig(f"@{RESOLVER_V4}", "nothing.example.com")
    assert "status: NOERROR" in net.dig(f"@{RESOLVER_V4}", "www.example.com", "HTTPS")
    assert not [row for row in proxy.tell()["cache"] if row["name"] == "nothing.example.com"]


@pytest.mark.parametrize("tcp", [False, True])
def test_records_of_every_type_come_as_the_name_server_gave_them(net: Any, proxy: Any, tcp: bool) -> None:
    queries = {
        number: dns.message.make_query(
            "SiGned.example.com", number, id=number, want_dnssec=True, payload=4096
        ).to_wire()
        for number in net.records
    }
    script = f"""
import socket
for wire in {list(queries.values())!r}:
    s = socket.socket(socket.AF_INET, socket.{"SOCK_STREAM" if tcp else "SOCK_DGRAM"}); s.settimeout(5)
    s.connect(("{RESOLVER_V4}", 53))
    s.sendall({"len(wire).to_bytes(2, 'big') + wire" if tcp else "wire"})
    print(s.recv(4096).hex())
"""
    done = net.outside.run([sys.executable, "-c", script], timeout=30)
    through, beside = net.exchange(script).split(), done.stdout.split()
    assert through == beside
    for answer, data in zip(through, net.records.values(), strict=True):
        assert data.replace(" ", "") in answer
        assert b"SiGned".hex() in answer


def test_an_answer_that_cannot_be_learnt_is_withheld(net: Any, proxy: Any) -> None:
    proxy.tell("full")
    try:
        assert "status: SERVFAIL" in net.dig(f"@{RESOLVER_V4}", "n60.example.com")
    finally:
        proxy.tell("room")
    flow = proxy.flow("n60.example.com")
    assert (flow["reason"], flow["detail"]) == (225, "the kernel table ipcache is full")
    assert not [row for row in proxy.tell()["cache"] if row["name"] == "n60.example.com"]
    assert net.dig("+short", f"@{RESOLVER_V4}", "n60.example.com") == "203.0.113.61\n"


def test_a_killed_proxy_comes_back_with_all_it_had_learnt(net: Any, tmp_path: Path) -> None:
    other = type(net)(tmp_path)
    try:
        other.build()
        state = tmp_path / "state"
        first = other.proxy(state, "asyncio")
        other.dig(f"@{RESOLVER_V4}", "www.example.com")
        other.dig("+tcp", f"@{RESOLVER_V4}", "n5.example.com", "A")
        first.stop(kill=True)
        second = other.proxy(state, "asyncio")
        try:
            said = second.tell()
            assert said["ready"] == 1
            assert {row["address"] for row in said["cache"]} == {"203.0.113.80", "203.0.113.6"}
            assert set(said["tables"]) == {"203.0.113.80", "203.0.113.6"}
            assert other.dig("+short", f"@{RESOLVER_V4}", "n6.example.com") == "203.0.113.7\n"
        finally:
            second.stop()
        assert second.errors == ""
    finally:
        other.destroy()


@pytest.mark.parametrize(("family", "server", "client"), [(4, RESOLVER_V4, CLIENT_V4), (6, RESOLVER_V6, CLIENT_V6)])
@pytest.mark.parametrize("taken", [False, True])
def test_answers_come_from_the_name_server_even_if_the_node_uses_that_port_itself(
    net: Any, family: int, server: str, client: str, taken: bool
) -> None:
    wildcard = "::" if family == 6 else "0.0.0.0"
    kind = "socket.AF_INET6" if family == 6 else "socket.AF_INET"
    listen = f"""
import socket
s = socket.socket({kind}, socket.SOCK_DGRAM); s.bind(("{client}", 7777)); s.settimeout(5); print("ready", flush=True)
for _ in range(2):
    data, sender = s.recvfrom(65535); print(len(data), sender[0], sender[1])
"""
    send = f"""
import asyncio, socket
from l7dns.reply import Replies
async def main():
    blocker = socket.socket({kind}, socket.SOCK_DGRAM)
    if {taken}: blocker.bind(("{wildcard}", 5300))
    replies = Replies(asyncio.get_running_loop(), print)
    for size in (100, 5000): replies.send(("{server}", 5300), ("{client}", 7777), bytes(size))
    replies.close(); blocker.close(); print(replies.errors)
asyncio.run(main())
"""
    waiting = subprocess.Popen(
        net.client.inside([sys.executable, "-c", listen]), stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "ready\n"
        sent = net.node.run([sys.executable, "-W", "error", "-c", send])
        assert (sent.stdout, sent.stderr) == ("0\n", "")
        assert waiting.communicate(timeout=10)[0] == f"100 {server} 5300\n5000 {server} 5300\n"
    finally:
        waiting.kill()
        waiting.wait()
