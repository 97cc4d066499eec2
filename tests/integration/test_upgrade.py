# SPDX-License-Identifier: Apache-2.0
"""From an older layout of the kernel's tables to this one: no packet unjudged, no connection lost, whenever it dies.

The older datapath is a real one: compiled from the sources as they were, with the rows and links of the running one.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from l7bpf import compiler, libbpf, loader
from l7bpf.layouts import LAYOUT
from l7bpf.maps import Maps
from l7bpf.migration import TABLES
from l7bpf.pinned import raw_rows
from l7lab import traffic
from l7lab.gate import Gate, program
from l7lab.process import Process, wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import IN_CIDR, RESOLVER_V4, UNNAMED
from l7lab.traffic import Stream

PORT = 9998
FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
while True:
    sock.sendto(b"flood", (sys.argv[1], int(sys.argv[2])))
    sent += 1
    if not sent % 100:
        print(sent, flush=True)
    time.sleep(0.0002)
"""
COUNT = """
import socket, struct, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind(("ext0", 3))
print("ready", flush=True)
while True:
    data, (_, ethertype, kind, _, _) = sock.recvfrom(2048)
    if kind != socket.PACKET_OUTGOING and ethertype == 0x0800 and data[9] == 17:
        if struct.unpack_from("!H", data, (data[0] & 15) * 4 + 2)[0] == int(sys.argv[1]):
            print("leaked", flush=True)
"""


def former_sources(folder: Path) -> Path:
    """As layout v1 had them: no padding in the keys of `policy`."""
    shutil.copytree(compiler.programs_folder(), folder)
    text = (folder / "maps.h").read_text()
    before, after = text.split("struct policy_key {")
    body, rest = after.split("};", 1)
    assert "u32 pad;" in body
    (folder / "maps.h").write_text(before + "struct policy_key {" + body.replace("u32 pad;", "") + "};" + rest)
    return folder


def set_back(pins: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the older datapath in the place of the running one, without a packet in between."""
    new, old = pins / LAYOUT, pins / "v1"
    sizes = {}
    for name, macro in (("policy", "max_policy"), ("ipcache", "max_ipcache"), ("conntrack", "max_conntrack")):
        fd = libbpf.obj_get(new / "maps" / name)
        sizes[macro] = libbpf.map_info(fd).max_entries
        os.close(fd)
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "programs_folder", lambda: sources)
        patched.setattr(loader, "check_layout", lambda _: None)
        loader.load(old, loader.Constants(**sizes))
    for name in TABLES:
        source, target = (libbpf.obj_get(place / "maps" / name) for place in (new, old))
        info = libbpf.map_info(source)
        for key, value in raw_rows(source, info.key_size, info.value_size, info.max_entries):
            libbpf.update(target, key[:16] if name == "policy" else key, value)
        os.close(source)
        os.close(target)
    for pin in sorted((new / "links").iterdir()):
        link = libbpf.obj_get(pin)
        what, way = pin.name.split("_")[0], pin.name.rpartition("_")[2]
        judge = libbpf.obj_get(old / "programs" / ("steer" if what == "steer" else f"{way}_{what}"))
        libbpf.link_update(link, judge)
        libbpf.obj_pin(link, old / "links" / pin.name)
        os.close(judge)
        os.close(link)
    shutil.rmtree(new / "links")
    shutil.rmtree(new / "programs")
    shutil.rmtree(new / "maps")
    new.rmdir()


def stop_processes(gate: Gate) -> None:
    """The old version's processes held the old tables. These hold the new ones, which are gone now."""
    for pid in gate.workers().values():
        os.kill(pid, 9)


def flooded(gate: Gate) -> tuple[Process, Process]:
    argv = [sys.executable, "-I", "-S", "-c"]
    witness = gate.lab.start(gate.lab.outside, [*argv, COUNT, str(PORT)], "witness")
    witness.wait(lambda: "ready" in witness.output(), "to listen")
    flood = gate.lab.start(gate.lab.batch, [*argv, FLOOD, UNNAMED, str(PORT)], "flood")
    flood.wait(lambda: sent(flood) > 0, "to flood")
    return flood, witness


def sent(flood: Process) -> int:
    said = flood.log.read_text().splitlines()
    return int(said[-1]) if said else 0


def begin(gate: Gate) -> list[str]:
    return [program("l7d"), "--config", str(gate.config), "agent"]


@pytest.mark.timeout(240)
def test_an_upgrade_leaks_nothing_keeps_connections_and_may_die_at_any_moment(
    make_gate: Callable[..., Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make_gate()
    lab, pins = gate.lab, gate.lab.bpffs / "l7"
    traffic.dns(lab.frontend.namespace, RESOLVER_V4, "api.example.com")
    stop_processes(gate)
    gate.stop_agent()
    set_back(pins, former_sources(tmp_path / "programs"), monkeypatch)
    assert [path.name for path in pins.iterdir()] == ["v1"]
    flood, witness = flooded(gate)
    stream = Stream.http(lab.batch.namespace, lab.folder / "upgrade-stream.log", "http://in-cidr/", address=IN_CIDR)
    stream.wait_count(5)
    before = sent(flood)
    mark = stream.mark()

    # Killed at many moments of its start: while it loads, copies, waits for its processes, flips, removes.
    for delay in (0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 3.0):
        agent = lab.start(lab.node, begin(gate), "l7d")
        time.sleep(delay)
        agent.kill()
    gate.start()

    assert [path.name for path in pins.iterdir()] == [LAYOUT]
    with Maps.open(pins / LAYOUT) as maps:
        assert len(maps.policy)
    wait_until(lambda: sent(flood) > before, "the flood to go on")
    assert {(outcome.outcome, outcome.connection) for outcome in stream.since(mark)} == {("200", 1)}
    stream.stop()
    assert "leaked" not in witness.output()
    assert traffic.http(lab.frontend.namespace, f"{API}/public/a", address=API_V4).status == 200
    # The witness sees what is let through: else its silence would mean nothing.
    gate.must("endpoint", "remove", "batch")
    witness.wait(lambda: "leaked" in witness.output(), "to see what nobody judges any more")
    assert json.loads(gate.must("status", "-o", "json").out)["datapath"]["layout"] == LAYOUT
