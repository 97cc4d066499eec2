# SPDX-License-Identifier: Apache-2.0
"""The forwarders that the DNS proxy is compared with, each set up to do the same: forward every query, cache no answer.

dnsmasq writes what it learns into an nftables set in its second form, which is the work closest to the proxy's. They
listen on the node and ask the same name server.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l7lab import Lab
from l7lab.process import Process

PACKAGES = ("dnsperf", "dnsmasq-base", "nftables", "unbound", "dnsdist")
PORTS = {"dnsmasq": 5301, "dnsmasq_nftset": 5302, "unbound": 5303, "dnsdist": 5304}


@dataclass(frozen=True, slots=True)
class Peer:
    """One that runs."""

    name: str
    address: str
    port: int
    process: Process


def _dnsmasq(folder: Path, address: str, port: int, upstream: str, more: str = "") -> list[str]:
    config = folder / f"{port}.conf"
    config.write_text(
        f"keep-in-foreground\nno-resolv\nno-hosts\nuser=root\nbind-interfaces\nlisten-address={address}\nport={port}\n"
        f"server={upstream}\ncache-size=0\ndns-forward-max=10000\npid-file={folder}/{port}.pid\n{more}"
    )
    return ["dnsmasq", f"--conf-file={config}"]


def _unbound(folder: Path, address: str, port: int, upstream: str) -> list[str]:
    config = folder / "unbound.conf"
    config.write_text(
        f"""server:
  interface: {address}@{port}
  access-control: 0.0.0.0/0 allow
  chroot: ""
  username: ""
  directory: "{folder}"
  pidfile: "{folder}/unbound.pid"
  do-daemonize: no
  use-syslog: no
  module-config: "iterator"
  num-threads: 1
  outgoing-range: 8192
  num-queries-per-thread: 4096
  incoming-num-tcp: 1000
  msg-cache-size: 0
  rrset-cache-size: 0
  cache-max-ttl: 0
  qname-minimisation: no
  do-not-query-localhost: no
forward-zone:
  name: "."
  forward-addr: {upstream}
remote-control:
  control-enable: no
"""
    )
    return ["unbound", "-d", "-c", str(config)]


def _dnsdist(folder: Path, address: str, port: int, upstream: str) -> list[str]:
    config = folder / "dnsdist.conf"
    config.write_text(
        f'setLocal("{address}:{port}")\nsetACL("0.0.0.0/0")\n'
        f'newServer({{address="{upstream}:53", healthCheckMode="up"}})\n'
        "setSecurityPollSuffix('')\nsetMaxTCPClientThreads(4)\n"
    )
    return ["dnsdist", "--supervised", "--disable-syslog", "-C", str(config)]


def start(lab: Lab, address: str, upstream: str) -> list[Peer]:
    """Starts those that are installed, on the lab's node."""
    nft = "nftset=/bench.example.com/4#inet#l7bench#v4\nnftset=/bench.example.com/6#inet#l7bench#v6\n"
    made: dict[str, Callable[[], list[str]]] = {
        "dnsmasq": lambda: _dnsmasq(lab.folder, address, PORTS["dnsmasq"], upstream),
        "dnsmasq_nftset": lambda: _dnsmasq(lab.folder, address, PORTS["dnsmasq_nftset"], upstream, nft),
        "unbound": lambda: _unbound(lab.folder, address, PORTS["unbound"], upstream),
        "dnsdist": lambda: _dnsdist(lab.folder, address, PORTS["dnsdist"], upstream),
    }
    tables = (
        "add table inet l7bench\n"
        "add set inet l7bench v4 { type ipv4_addr; }\n"
        "add set inet l7bench v6 { type ipv6_addr; }\n"
    )
    done = lab.node.namespace.run(["nft", "-f", "-"], stdin=tables)
    if done.returncode:
        raise SystemExit(f"bench: nft: {done.stderr.strip()}")
    peers = []
    for name, command in made.items():
        if shutil.which(command()[0]) is None:
            raise SystemExit(f"bench: {command()[0]} is missing: make bench-dns installs it")
        process = lab.start(lab.node, command(), name)
        process.wait_listening(PORTS[name], protocol="udp")
        peers.append(Peer(name, address, PORTS[name], process))
    return peers
