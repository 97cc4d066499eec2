# SPDX-License-Identifier: Apache-2.0
"""OneShot: a private `l7d` for one command, on a machine where none runs. It is gone with the command.

Everything of it lies in one folder below /run, whose name holds the number of the process that made it, so that the
next one can take away what a crash has left (`sweep`). Until then a command that survived its `l7ctl` is still judged.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from l7agent import cleanup, config, preflight
from l7agent.config import Config
from l7bpf.errors import DatapathError
from l7ctl.client import Client
from l7ctl.confinement import PREFIX, Confinement, left_over
from l7ctl.errors import ExitCode, Failure, Unreachable

FOLDER: Final = Path("/run")
READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


def sweep() -> None:
    """Takes away what runs that crashed have left: commands, programs, tables, folders. Raises Failure."""
    for confinement in Confinement.stale():
        confinement.remove()
    for folder in left_over(FOLDER):
        _remove(folder)


@contextlib.contextmanager
def daemon(policies: Mapping[str, str]) -> Iterator[Client]:
    """A daemon under these policies (text by file name), ready, until the block ends. Raises Failure."""
    missing = preflight.first_missing(Config())
    if missing is not None:
        message = f"{missing.name}: found {missing.found}, need {missing.needed}"
        raise Failure(message, missing.remedy, code=ExitCode.USAGE)
    folder = FOLDER / f"{PREFIX}{os.getpid()}"
    _remove(folder)  # one of a process that had the same number
    settings = _prepare(folder, policies)
    log = folder / "l7d.log"
    try:
        with log.open("wb") as said:
            program = Path(sys.argv[0]).with_name("l7d")
            process = subprocess.Popen(
                [str(program), "--config", str(folder / "config.yaml"), "agent"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is the command's, and this one's last
            )
        try:
            client = Client(Path(settings["api"]["socket"]), READY_SECONDS)
            _wait_ready(client, process, log)
            yield client
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        _remove(folder)


def _prepare(folder: Path, policies: Mapping[str, str]) -> dict[str, dict[str, str]]:
    for name in ("policies", "endpoints", "secrets"):
        (folder / name).mkdir(mode=0o700, parents=True)
    for name, text in policies.items():
        (folder / "policies" / name).write_text(text)
    settings: dict[str, dict[str, str]] = {
        "api": {"socket": str(folder / "agent.sock")},
        "audit": {"path": str(folder / "audit.jsonl")},
    }
    rest = {
        "policies": str(folder / "policies"),
        "endpoints": str(folder / "endpoints"),
        "secrets": str(folder / "secrets"),
        "state": str(folder / "state"),
        "run": str(folder / "run"),
        "pins": f"/sys/fs/bpf/{folder.name}",
        "http_workers": 1,
        "log_level": "warning",
    }
    (folder / "config.yaml").write_text(json.dumps(settings | rest))  # JSON is YAML
    return settings


def _wait_ready(client: Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise Failure("the private l7d did not start", log.read_text(errors="replace").strip()[-2000:])
        with contextlib.suppress(Unreachable):
            processes = client.get("/status")["processes"]
            if processes and all(one["state"] == "ready" for one in processes):
                return
        if time.monotonic() > deadline:
            raise Failure(f"the private l7d was not ready within {READY_SECONDS:g} s", f"its log: {log}")
        time.sleep(_POLL_SECONDS)


def _remove(folder: Path) -> None:
    """Ends the data plane, and takes the folder away. Raises Failure if the node cannot be cleaned."""
    file = folder / "config.yaml"
    if file.exists():
        try:
            _end_agent(folder)
            for _ in cleanup.cleanup(config.load(file)):
                pass
        except (cleanup.AgentRunning, DatapathError, OSError) as error:
            raise Failure(
                f"what the private l7d attached is still there: {error}", f"l7d --config {file} cleanup"
            ) from error
    shutil.rmtree(folder, ignore_errors=True)


def _end_agent(folder: Path) -> None:
    """An agent that outlived the process that started it."""
    try:
        pid = Client(folder / "agent.sock", 2.0).get("/status")["pid"]
    except (Unreachable, Failure):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while Path("/proc", str(pid)).exists() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
