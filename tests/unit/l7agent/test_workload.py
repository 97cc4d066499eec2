# SPDX-License-Identifier: Apache-2.0
"""What counts as the node itself, read from a network namespace of the test's own."""

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor

from l7agent.workload import node_addresses

CLONE_NEWNET = 0x40000000


def addresses_after(*commands):
    """In a namespace that belongs to one thread, and ends with it."""

    def look():
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0, ctypes.get_errno()
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        return node_addresses()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(look).result()


def test_all_that_the_kernel_delivers_here_is_the_nodes():
    found = addresses_after(
        "link set lo up",
        "link add up0 type veth peer name up1",
        "addr add 192.0.2.1/24 dev up0",
        "link set up0 up",
        "route add local 198.51.100.0/24 dev lo",
    )
    assert {"192.0.2.1", "127.0.0.1", "::1", "127.0.0.0/8", "192.0.2.255/32", "198.51.100.0/24"} <= found.keys()
    assert found["192.0.2.255/32"] == "up0"
    assert "192.0.2.1/32" not in found  # it is there already, as an address


def test_other_routes_are_not():
    found = addresses_after(
        "link set lo up",
        "link add up0 type veth peer name up1",
        "addr add 192.0.2.1/24 dev up0",
        "link set up0 up",
        "route add 203.0.113.0/24 via 192.0.2.2",
        "route add local default dev lo table 2004",
    )
    assert not {"192.0.2.0/24", "203.0.113.0/24", "0.0.0.0/0"} & found.keys()
