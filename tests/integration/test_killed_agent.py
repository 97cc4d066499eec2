# SPDX-License-Identifier: Apache-2.0
"""An agent that is killed in the middle of whatever it does: nothing passes unjudged, and the next one goes on.

The agent runs under a few lines that kill it (SIGKILL) as it is about to take the step that a file names. All deaths of
a kind befall one node, one after the other, so that each next agent finds what the one before left half done.
"""

import json
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from l7bpf.linknames import LinkName
from l7bpf.maps import Maps
from l7bpf.programs import PROGRAMS
from l7lab import traffic
from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.topology import IN_CIDR, UNNAMED

MORTAL = """
import importlib, os, signal, sys
from functools import wraps
from pathlib import Path

flag, steps = Path(sys.argv.pop(1)), sys.argv.pop(1).split()
rename = Path.rename

def mortal(step, function):
    @wraps(function)
    def called(*arguments, **named):
        wanted, _, left = flag.read_text().partition(" ") if flag.exists() else ("", "", "")
        if wanted == step:
            if left == "1":
                flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            flag.write_text(f"{wanted} {int(left) - 1}")
        return function(*arguments, **named)
    return called

for step in steps:
    module, _, path = step.partition(":")
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    setattr(owner, name, mortal(step, getattr(owner, name)))

from l7agent.main import main
main()
"""
PIN, RENAME, DETACH = "l7bpf.libbpf:obj_pin", "pathlib:Path.rename", "l7bpf.libbpf:link_detach"
ROUTES, BEGIN = "l7bpf.routing:add", "l7agent.supervisor:Supervisor.start"
PREPARE, PREFIXES, ENDPOINTS, PUBLISH, COLLECT, KEEP, ATTACH = (
    "l7agent.supervisor:Supervisor.prepare",
    "l7agent.kernel_state:KernelState._publish_prefixes",
    "l7agent.kernel_state:KernelState._publish_endpoints",
    "l7agent.kernel_state:KernelState.publish",
    "l7agent.kernel_state:KernelState.collect",
    "l7agent.history:History.add",
    "l7agent.datapath:Datapath.attach_endpoint",
)
STEPS = (PIN, RENAME, DETACH, ROUTES, BEGIN, PREPARE, PREFIXES, ENDPOINTS, PUBLISH, COLLECT, KEEP, ATTACH)
FIRST_START = [
    (PIN, 3),  # some tables are there
    (PIN, 20),  # some programs are
    (BEGIN, 1),
    (PREFIXES, 1),
    (ROUTES, 1),
    (RENAME, 8),  # behind those of the programs: a link is attached, and has not got its name
    (ATTACH, 2),
]
NEXT_START = [(RENAME, 3), (PUBLISH, 1), (COLLECT, 1)]
RELOAD = [(PREPARE, 1), (ENDPOINTS, 1), (COLLECT, 1), (KEEP, 1)]
COMING = [(COLLECT, 1), (ATTACH, 1), (RENAME, 1)]
GOING = [(COLLECT, 1), (DETACH, 1)]


class Node:
    """Frontend and batch are declared in files; backend comes and goes by command."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.lab = gate.lab
        self.flag = gate.lab.folder / "die"
        declared = [
            {"netns": str(each.namespace.path), "name": each.name, "labels": each.labels}
            for each in (self.lab.frontend, self.lab.batch)
        ]
        (self.lab.folder / "endpoints" / "all.yaml").write_text(json.dumps(declared))

    def start(self, *, ready: bool = True) -> None:
        argv = [sys.executable, "-c", MORTAL, str(self.flag), " ".join(STEPS)]
        self.gate.agent = self.lab.start(self.lab.node, [*argv, "--config", str(self.gate.config), "agent"], "l7d")
        if ready:
            self.gate.agent.wait(self.gate.ready, "ready", 30.0)

    def arm(self, step: str, call: int) -> None:
        self.flag.write_text(f"{step} {call}")

    def wait_death(self) -> None:
        wait_until(lambda: not self.gate.agent.running, "the agent's death", 20.0)
        assert self.gate.agent.exit_code == -9, self.gate.agent.output()
        assert not self.flag.exists()

    def judged(self) -> None:
        """What policy denies does not pass, whatever died; what it allows does."""
        assert not traffic.connect(self.lab.batch.namespace, UNNAMED, 80, timeout=0.15).open
        assert traffic.connect(self.lab.batch.namespace, IN_CIDR, 80).open

    def clean(self) -> None:
        """Nothing is left of what was begun: no draft, no row or link of nobody."""
        pins = next(path for path in (self.lab.bpffs / "l7").iterdir() if path.name.startswith("v"))
        ids = {endpoint["id"] for endpoint in self.gate.endpoints()}
        assert {path.name for path in (pins / "programs").iterdir()} == set(PROGRAMS)
        links = {path.name for path in (pins / "links").iterdir()}
        owners = {name.number for name in map(LinkName.read, links) if name and name.owner == "endpoint"}
        assert owners == ids
        assert all(name == "steer" or LinkName.read(name) for name in links)
        with Maps.open(pins) as maps:
            rows = dict(maps.endpoints.items())
            assert rows.keys() == ids
            assert {endpoint for _, endpoint in maps.endpoint_by_ifindex.items()} == ids
            assert {key.policy_id for key, _ in maps.policy.items()} <= {row.policy_id for row in rows.values()}
        assert not list(Path(self.lab.folder / "state").glob("*.new"))
        assert not self.gate.status()["problems"]


@pytest.fixture(scope="module")
def node(new_gate: Callable[..., Gate]) -> Iterator[Node]:
    with new_gate() as gate:  # type: ignore[attr-defined]
        yield Node(gate)


def test_an_agent_that_dies_at_each_step_of_its_first_start(node: Node) -> None:
    for step, call in FIRST_START:
        node.arm(step, call)
        node.start(ready=False)
        node.wait_death()
    node.start()
    node.judged()
    node.clean()


def test_an_agent_that_dies_at_each_step_of_a_start_that_takes_over(node: Node) -> None:
    node.gate.kill_agent()
    for step, call in NEXT_START:
        node.arm(step, call)
        node.start(ready=False)
        node.wait_death()
        node.judged()
    node.start()
    node.judged()
    node.clean()


def test_an_agent_that_dies_at_each_step_of_a_reload(node: Node) -> None:
    text = (node.gate.policies / "30-batch.yaml").read_text()
    for number, (step, call) in enumerate(RELOAD):
        node.gate.write("30-batch.yaml", text + f"\n# {number}\n" if number % 2 else text.replace("/26", "/27", 1))
        node.arm(step, call)
        with pytest.raises((OSError, HTTPException)):
            node.gate.api("POST", "/v1/rules/reload", {})
        node.wait_death()
        node.judged()
        node.start()
    node.judged()
    node.clean()


def test_an_agent_that_dies_at_each_step_of_an_endpoints_coming_and_going(node: Node) -> None:
    backend = node.lab.backend
    argv = ("endpoint", "add", "--netns", backend.namespace.name, "--name", "backend", "--label=app=backend")
    for step, call in COMING:
        node.arm(step, call)
        assert node.gate.ctl(*argv).code == 3
        node.wait_death()
        node.judged()
        node.start()
        assert node.gate.ctl("endpoint", "remove", "backend").code in {0, 1, 2}
        node.clean()
    for step, call in GOING:
        if all(endpoint["name"] != "backend" for endpoint in node.gate.endpoints()):
            node.gate.must(*argv)
        node.arm(step, call)
        assert node.gate.ctl("endpoint", "remove", "backend").code == 3
        node.wait_death()
        node.judged()
        node.start()
        node.clean()
