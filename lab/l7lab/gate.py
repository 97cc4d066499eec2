# SPDX-License-Identifier: Apache-2.0
"""Gate: the daemon under test, running on a lab's node with every path of its own, and the handles to work it.

It starts the programs ``l7d`` and ``l7ctl`` as a user would and knows them only by their command line, their API and
their files. It may not import them. A daemon that does not become ready raises `LabError` with what it said.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, ClassVar, Final

from l7lab.cgroup import Cgroup
from l7lab.lab import Lab
from l7lab.namespace import LabError, LabUnavailableError, environment
from l7lab.process import Process, wait_until
from l7lab.topology import Workload

Json = dict[str, Any]
READY_WITHIN: Final = 30.0


@dataclass(frozen=True, slots=True)
class Command:
    """One run of ``l7ctl``."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        """Standard output, parsed."""
        return json.loads(self.out)


class UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Reach the socket instead of a host."""
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def program(name: str) -> str:
    """Path of one of the project's programs: beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LabUnavailableError(f"the program {name} is not installed: `make setup` does it")
    return found


def examples() -> Path:
    """The example policies: in the package when installed from a wheel, in the checkout otherwise."""
    packaged = Path(__file__).with_name("policies")
    found = packaged if packaged.is_dir() else Path(__file__).parents[2] / "examples" / "policies"
    if not found.is_dir():
        raise LabError(f"no example policies in {found}")
    return found


class Gate:
    """``l7d`` on the node of a lab."""

    agent: Process
    cache: ClassVar[Path | None] = None
    """Where the daemons of all labs keep their compiled programs; None: each in its own lab."""

    def __init__(self, lab: Lab, policies: Path | None = None, settings: Mapping[str, object] | None = None) -> None:
        self.lab = lab
        self.policies = lab.folder / "policies"
        self.config = lab.folder / "config.yaml"
        self.socket = lab.folder / "run" / "agent.sock"
        self.audit_log = lab.folder / "audit.jsonl"
        self._source = policies or examples()
        self._restore(self._source)
        endpoints = lab.folder / "endpoints"
        endpoints.mkdir(exist_ok=True)
        config: dict[str, object] = {
            "policies": str(self.policies),
            "endpoints": str(endpoints),
            "state": str(lab.folder / "state"),
            "cache": str(self.cache or lab.folder / "cache"),
            "run": str(lab.folder / "run"),
            "pins": str(lab.bpffs / "l7"),
            "http_workers": 2,
            "audit": {"path": str(self.audit_log)},
            "api": {"socket": str(self.socket)},
        }
        # JSON is YAML, and needs no library to write.
        self.config.write_text(json.dumps(config | dict(settings or {}), indent=2) + "\n")

    def start(self, timeout: float = READY_WITHIN) -> None:
        """Start the agent and wait until it and every data-plane process is ready."""
        argv = [program("l7d"), "--config", str(self.config), "agent"]
        self.agent = self.lab.start(self.lab.node, argv, "l7d")
        self.agent.wait(self.ready, "ready", timeout)

    def ready(self) -> bool:
        """Whether the API answers and all processes are in service."""
        try:
            processes = self.status()["processes"]
        except (OSError, HTTPException):
            return False
        return bool(processes) and all(process["state"] == "ready" for process in processes)

    def status(self) -> Json:
        """The daemon's account of itself."""
        status: Json = self.api("GET", "/v1/status")[1]
        return status

    def workers(self) -> dict[str, int]:
        """Pid of each data-plane process."""
        return {process["name"]: process["pid"] for process in self.status()["processes"]}

    def kill_agent(self) -> None:
        """``kill -9`` of the agent alone."""
        self.agent.kill()

    def stop_agent(self) -> None:
        """End the agent as a service manager does."""
        self.agent.stop(10.0)

    def api(self, method: str, path: str, body: object = None, timeout: float = 15.0) -> tuple[int, Any]:
        """One API call: status and decoded body."""
        connection = UnixConnection(self.socket, timeout)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        return response.status, json.loads(data) if data else None

    def ctl(self, *arguments: str, timeout: float = 30.0) -> Command:
        """Run ``l7ctl`` on this daemon. Its failure is a result."""
        argv = [program("l7ctl"), "--config", str(self.config), *arguments]
        began = time.monotonic()
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=environment(),
            check=False,
        )
        return Command(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def must(self, *arguments: str) -> Command:
        """Run ``l7ctl`` and raise unless it succeeds."""
        done = self.ctl(*arguments)
        if done.code != 0:
            raise LabError(f"l7ctl {' '.join(arguments)} failed with {done.code}: {(done.err or done.out).strip()}")
        return done

    def add(self, workload: Workload) -> None:
        """Register a workload as an endpoint, with its labels."""
        self._add(workload.labels, netns=workload.namespace.name, name=workload.name)

    def add_cgroup(self, cgroup: Cgroup, **labels: str) -> None:
        """Register processes of the node."""
        self._add(labels, cgroup=cgroup.where)

    def _add(self, labels: Mapping[str, str], **what: str) -> None:
        """As `l7ctl endpoint add` does it, without starting an interpreter for each of many."""
        given = [f"{key}={value}" for key, value in labels.items()]
        status, answer = self.api("POST", "/v1/endpoints", {"labels": given, **what})
        if status >= 400:
            raise LabError(f"endpoint {what} was not added: {answer}")

    def add_all(self) -> None:
        """Register every workload, and wait until policy is in force for each."""
        for workload in self.lab.workloads:
            self.add(workload)
        wait_until(self.endpoints_ready, "the endpoints to be ready")

    def endpoints(self) -> list[Json]:
        """As the daemon lists them."""
        listed: list[Json] = self.api("GET", "/v1/endpoints")[1]
        return listed

    def endpoints_ready(self) -> bool:
        """Whether the daemon has each workload under policy."""
        states = {endpoint["name"]: endpoint["state"] for endpoint in self.endpoints()}
        return all(states.get(workload.name) == "ready" for workload in self.lab.workloads)

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a policy file as an editor does: the whole file at once."""
        path = self.policies / file
        text = path.read_text()
        if old not in text:
            raise LabError(f"{file} does not contain {old!r}")
        self.write(file, text.replace(old, new))

    def write(self, file: str, text: str) -> None:
        """Put a policy file in place."""
        draft = self.policies / f".{file}.new"
        draft.write_text(text)
        draft.replace(self.policies / file)

    def restore(self) -> None:
        """Back to the policies it began with. The daemon is not told."""
        self._restore(self._source)

    def _restore(self, source: Path) -> None:
        if self.policies.exists():
            shutil.rmtree(self.policies)
        shutil.copytree(source, self.policies)

    def audit(self) -> list[Json]:
        """Every record of the audit log, oldest first."""
        if not self.audit_log.exists():
            return []
        lines = self.audit_log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_audit(self, condition: Callable[[Json], bool], what: str, *, mark: int = 0, timeout: float = 3.0) -> Json:
        """Wait for a record that meets the condition, after the first `mark` ones; returns it."""
        found: list[Json] = []

        def seen() -> bool:
            found[:] = [record for record in self.audit()[mark:] if condition(record)]
            return bool(found)

        wait_until(seen, f"an audit record: {what}", timeout)
        return found[0]


def commands(gate: Gate) -> Sequence[str]:
    """What to type to play with a lab that was left running."""
    lab, ctl = gate.lab, f"{program('l7ctl')} --config {gate.config}"
    frontend = f"nsenter --net={lab.frontend.namespace.path}"
    return (
        f"{ctl} status",
        f"{ctl} endpoint list",
        f"{ctl} audit tail -f",
        f"{frontend} dig @192.0.2.10 api.example.com",
        f"{frontend} curl -i --resolve api.example.com:80:198.51.100.1 http://api.example.com/public/",
        f"$EDITOR {gate.policies}/*.yaml && {ctl} rules reload",
    )
