# SPDX-License-Identifier: Apache-2.0
"""A daemon with a thousand workloads on its node: how long it takes to start, to add one, to reload, and its memory.

Run by hand, as root: `.venv/bin/python bench/manyendpoints.py [COUNT]`. Prints one flat JSON object.
"""

import json
import sys
import time

from machine import machine, rss_mb

from l7lab import Lab
from l7lab.gate import Gate
from l7lab.namespace import Namespace, run
from l7lab.process import wait_until

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: "app-{0}", namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: "{0}"}}}}
  egress: [{{toEndpoints: [{{matchLabels: {{app: "{1}"}}}}], toPorts: [{{ports: [{{port: "{2}", protocol: TCP}}]}}]}}]
"""
APPS = 50


def workloads(lab: Lab, count: int) -> list[Namespace]:
    """Namespaces behind a veth each, with one address of 2001:db8:300::/64."""
    made = []
    prefix = lab.node.namespace.name.removesuffix("node")
    for number in range(count):
        namespace = Namespace(f"{prefix}m{number}")
        run(["ip", "netns", "add", namespace.name])
        made.append(namespace)
    node = []
    for number, namespace in enumerate(made):
        node += [
            f"link add many{number} type veth peer name eth0 netns {namespace.name}",
            f"link set many{number} up",
            f"route add 2001:db8:300::{number + 1:x}/128 dev many{number}",
        ]
    lab.node.namespace.ip(node)
    for number, namespace in enumerate(made):
        namespace.ip([f"addr add 2001:db8:300::{number + 1:x}/128 dev eth0 nodad", "link set eth0 up"])
    return made


def timed(work: object) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return round(time.perf_counter() - began, 3)


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    made: list[Namespace] = []
    with Lab() as lab:
        try:
            found: dict[str, object] = {**machine(), "endpoints": count}
            found["building"] = timed(lambda: made.extend(workloads(lab, count + 1)))
            policies = lab.folder / "many"
            policies.mkdir()
            for app in range(APPS):
                (policies / f"{app}.yaml").write_text(POLICY.format(app, (app + 1) % APPS, 8000 + app))
            gate = Gate(lab, policies)
            declared = [
                {
                    "netns": str(namespace.path),
                    "name": f"many{number}",
                    "labels": {"app": str(number % APPS), "io.kubernetes.pod.namespace": "shop"},
                }
                for number, namespace in enumerate(made[:count])
            ]
            (lab.folder / "endpoints" / "all.yaml").write_text(json.dumps(declared))

            def ready() -> bool:
                return sum(endpoint["state"] == "ready" for endpoint in gate.endpoints()) == count

            def start() -> None:
                gate.start(120.0)
                wait_until(ready, "all endpoints", 120.0)

            found["first_start_seconds"] = timed(start)
            gate.stop_agent()
            found["next_start_seconds"] = timed(start)
            found["agent_mb"] = round(rss_mb(gate.agent.pid), 1)
            last = made[count]
            add = ("endpoint", "add", "--netns", last.name, "--name", "last", "--label=app=0")
            found["add_seconds"] = timed(lambda: gate.must(*add))
            (gate.policies / "0.yaml").write_text(POLICY.format(0, 1, 9000))
            found["reload_seconds"] = timed(lambda: gate.must("rules", "reload"))
            found["status_seconds"] = timed(lambda: gate.must("status"))
            print(json.dumps(found))
        finally:
            for namespace in made:
                namespace.delete()


if __name__ == "__main__":
    main()
