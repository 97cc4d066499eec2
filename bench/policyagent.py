# SPDX-License-Identifier: Apache-2.0
"""A whole agent under many policies: what its processes hold when idle, and how long a change takes to be in force.

A real `l7d` on a lab's node, with its DNS process and one HTTP worker, and three workloads that the policies select.
A change is over when the kernel and both proxies have it. A reload reads every file, and is timed by the daemon;
a label of an endpoint is timed as its API call. The engine of an agent is timed once more by itself, with as many
workloads as a cluster has, each with an identity of its own. Prints one JSON object.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import policycluster
from machine import rss_mb

from l7agent.compilation import Compiler
from l7agent.endpoints import Declared, Endpoint
from l7agent.identities import Identities
from l7lab import Lab
from l7lab.gate import Gate
from l7policy import documents
from l7policy.changes import compare
from l7policy.ids import EndpointId
from l7policy.policydoc import Source

IDLE_POLICIES = 100
"""What the design's budget of memory speaks of."""


@contextmanager
def running(policies: int) -> Iterator[Gate]:
    """A daemon with so many policies, and its workloads registered as pods that these select."""
    with Lab() as lab:
        folder = lab.folder / "given"
        folder.mkdir()
        for source in policycluster.sources(policies):
            (folder / source.path).write_text(source.text)
        gate = Gate(lab, folder, {"http_workers": 1})
        gate.start()
        for number, workload in enumerate(lab.workloads):
            labels = [label.removeprefix("k8s:") for label in policycluster.pod_labels(number, policies)]
            body = {"netns": workload.namespace.name, "name": workload.name, "labels": labels}
            status, answer = gate.api("POST", "/v1/endpoints", body)
            assert status == 201, answer
        yield gate


def idle() -> dict[str, float]:
    """Megabytes of each process with `IDLE_POLICIES` in force."""
    with running(IDLE_POLICIES) as gate:
        pids = gate.workers()
        return {
            "rss_agent_mb": rss_mb(gate.agent.pid),
            "rss_http_mb": rss_mb(pids["http-0"]),
            "rss_dns_mb": rss_mb(pids["dns-0"]),
        }


def changes(policies: int, rounds: int) -> dict[str, float]:
    """Milliseconds until one policy's new port, and an endpoint's new label, are in force; one after the other."""
    reloads, labels = [], []
    file = policycluster.sources(policies)[0].path
    with running(policies) as gate:
        for number in range(rounds):
            old, new = (("8080", "8081"), ("8081", "8080"))[number % 2]
            text = (gate.policies / file).read_text()
            gate.write(file, text.replace(f'port: "{old}"', f'port: "{new}"', 1))
            status, change = gate.api("POST", "/v1/rules/reload")
            assert status == 200, change
            assert len(change["modified"]) == 1, change
            reloads.append(change["milliseconds"])
            app = f"app=app{number % 2}"
            path = f"/v1/endpoints/{gate.lab.workloads[0].name}/labels"
            began = time.perf_counter()
            status, answer = gate.api("PATCH", path, {"add": [app]})
            labels.append((time.perf_counter() - began) * 1e3)
            assert status == 200, answer
    return {"reload_ms": statistics.median(reloads), "endpoint_label_ms": statistics.median(labels)}


def engine(policies: int, workloads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of everything but writing it down: another label of one workload, another port in one policy."""
    sources = policycluster.sources(policies)
    changed = [Source(sources[0].path, sources[0].text.replace('port: "8080"', 'port: "8081"', 1)), *sources[1:]]
    loader = documents.Loader()
    here = [_endpoint(number, policies) for number in range(workloads)]
    labels, reloads = [], []
    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(Identities(Path(folder) / "identities.json"))
        known = loader.load_enforced(sources)
        compiler.compile(known, here, ())
        compiler.commit()
        for number in range(rounds):
            here[0] = _endpoint(0 if number % 2 else workloads, policies, 1)
            gc.collect()
            began = time.perf_counter()
            compiler.compile(known, here, ())
            compiler.commit()
            labels.append((time.perf_counter() - began) * 1e3)
            gc.collect()
            began = time.perf_counter()
            found = loader.load_enforced(sources if number % 2 else changed)
            assert len(compare(known, found).modified) == 1
            compiler.compile(found, here, ())
            compiler.commit()
            reloads.append((time.perf_counter() - began) * 1e3)
            known = found
    return {"engine_label_ms": statistics.median(labels), "engine_reload_ms": statistics.median(reloads)}


def _endpoint(number: int, policies: int, identity: int | None = None) -> Endpoint:
    labels = tuple(sorted(policycluster.pod_labels(number, policies)))
    return Endpoint(EndpointId(identity or number + 1), Declared(f"pod{number}", f"pod{number}", labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workloads", type=int, default=10_000)
    options = parser.parse_args()
    everything = idle() | changes(options.policies, options.rounds)
    print(json.dumps(everything | engine(options.policies, options.workloads, options.rounds)))


if __name__ == "__main__":
    main()
