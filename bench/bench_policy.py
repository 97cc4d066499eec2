# SPDX-License-Identifier: Apache-2.0
"""What policies cost in user space: to compile, to resolve, to change, and to judge by.

Each size is measured in a process of its own (its memory is the size's), each quantity in every round, one after the
other, and told as the median. `full` is a fresh `Resolver` given everything; the incremental quantities are updates of
one that is up to date, forth and back. `naive` is the peer: every policy looked at for every flow, as an evaluator does
that keeps no index. A whole agent is measured by `policyagent`. Prints a table, writes bench/results/policy.{json,svg};
the last line is one flat JSON object.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import policycluster
from machine import machine, rss_mb
from plot import Series, log_log

from l7policy import documents
from l7policy.entries import entries
from l7policy.ids import ANY_IDENTITY, EndpointId, IdentityId
from l7policy.judgement import judge
from l7policy.model import Labels
from l7policy.policydoc import Policy, Source
from l7policy.resolve import endpoint_policy
from l7policy.resolver import Resolver, Workload, keyed
from l7policy.verdict import Direction, Protocol

RESULTS = Path(__file__).parent / "results"
POLICIES = (100, 1_000, 10_000)
IDENTITIES = (1_000, 10_000, 80_000)
LIMIT_SECONDS = 60
MAIN = (1_000, 10_000)
NAIVE = (100, 1_000)
"""Where the naive rebuild is measured: at the main size it would take minutes."""
FLOWS = 200


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def workloads(endpoints: dict[EndpointId, Labels]) -> dict[EndpointId, Workload]:
    """As the resolver takes them."""
    return {endpoint: Workload(labels) for endpoint, labels in endpoints.items()}


class Size:
    """One size, and the operations measured on it."""

    def __init__(self, policies: int, identities: int) -> None:
        self.count = policies
        self.cluster = policycluster.cluster(policies, identities)
        self.sources = policycluster.sources(policies)
        self.policies: tuple[Policy, ...] = ()
        self.resolver = Resolver()

    def compile(self) -> None:
        """YAML to policies."""
        self.policies = documents.load(self.sources)

    def full(self) -> Resolver:
        """Everything from nothing."""
        resolver = Resolver()
        resolver.update(keyed(self.policies), workloads(self.cluster.endpoints), self.cluster.identities)
        return resolver

    def pod(self) -> tuple[float, float]:
        """A pod with labels nobody had comes to this node, and goes."""
        labels = policycluster.pod_labels(10**7, self.count)
        identity, endpoint = IdentityId(1 << 23), EndpointId(1 << 20)
        return (
            timed(lambda: self.resolver.update(endpoints={endpoint: Workload(labels)}, identities={identity: labels})),
            timed(lambda: self.resolver.update(endpoints={endpoint: None}, identities={identity: None})),
        )

    def label(self) -> tuple[float, float]:
        """A label of one namespace changes: every identity in it gets another number, its pods here other labels."""
        came = {
            IdentityId(identity + (1 << 22)): policycluster.pod_labels(number, self.count, "other")
            for identity, number in self.cluster.namespace(0)
        }
        went = {identity: self.cluster.identities[identity] for identity, _ in self.cluster.namespace(0)}
        new_labels = dict(zip(went.values(), came.values(), strict=True))
        here = {e: labels for e, labels in self.cluster.endpoints.items() if labels in new_labels}
        there = {endpoint: new_labels[labels] for endpoint, labels in here.items()}
        return (
            timed(lambda: self.resolver.update(endpoints=workloads(there), identities={**came, **dict.fromkeys(went)})),
            timed(lambda: self.resolver.update(endpoints=workloads(here), identities={**went, **dict.fromkeys(came)})),
        )

    def policy(self) -> tuple[float, float]:
        """One policy, that selects a pod of this node, gets another port. Reading its YAML is not in this."""
        changed = documents.load([Source("changed.yaml", policycluster.policy_text(0, self.count, port=8081))])
        before = keyed(p for p in self.policies if p.name == changed[0].name)
        return (
            timed(lambda: self.resolver.update(policies=keyed(changed))),
            timed(lambda: self.resolver.update(policies=before)),
        )

    def flows(self) -> list[tuple[EndpointId, IdentityId, int]]:
        """Flows to pods of this node, from all over the cluster."""
        endpoints, identities = list(self.cluster.endpoints), list(self.cluster.identities)
        return [
            (endpoints[i % len(endpoints)], identities[i * 7919 % len(identities)], (8080, 9050, 22)[i % 3])
            for i in range(FLOWS)
        ]

    def judge_all(self) -> None:
        """Judges each flow by the resolved policy."""
        known = self.cluster.identities
        for endpoint, identity, port in self.flows():
            judge(self.resolver.policy_of(endpoint), Direction.INGRESS, known[identity], Protocol.TCP, port)

    def judge_naively(self, flows: int) -> None:
        """Judges flows by looking at every policy."""
        known = self.cluster.identities
        for endpoint, identity, port in self.flows()[:flows]:
            policy = endpoint_policy(self.policies, self.cluster.endpoints[endpoint])
            judge(policy, Direction.INGRESS, known[identity], Protocol.TCP, port)

    def rebuild_naively(self) -> int:
        """Resolves every endpoint, and every identity for each policy, without any index."""
        distinct = {endpoint_policy(self.policies, labels) for labels in self.cluster.endpoints.values()}
        everybody = [(ANY_IDENTITY, None), *self.cluster.identities.items()]
        return sum(len(entries(policy, *one)) for policy in distinct for one in everybody)


def measure(policies: int, identities: int, rounds: int) -> dict[str, float]:
    """All quantities of one size."""
    empty = rss_mb()
    size = Size(policies, identities)
    compile_seconds = timed(size.compile)
    size.sources = []
    gc.collect()
    loaded = rss_mb()
    naive_flows = max(2, min(FLOWS, 20_000 // policies))
    times: dict[str, list[float]] = {}
    began = time.perf_counter()
    for number in range(rounds):
        if number and (time.perf_counter() - began) * (number + 1) / number > LIMIT_SECONDS / 2:
            break
        gc.collect()
        times.setdefault("resolve_seconds", []).append(timed(lambda: setattr(size, "resolver", size.full())))
        if number == 0:
            resolved = rss_mb()
        for name, operation in (("pod", size.pod), ("label", size.label), ("policy", size.policy)):
            times.setdefault(name, []).extend(operation())
        times.setdefault("judge", []).append(timed(size.judge_all) / FLOWS)
        times.setdefault("naive", []).append(timed(lambda: size.judge_naively(naive_flows)) / naive_flows)
        if (policies, identities) == NAIVE:
            times.setdefault("naive_resolve_seconds", []).append(timed(size.rebuild_naively))
    medians = {name: statistics.median(found) for name, found in times.items()}
    full = medians["resolve_seconds"]
    result = {
        "compile_seconds": compile_seconds,
        "resolve_seconds": full,
        "pod_added_ms": medians["pod"] * 1e3,
        "label_change_ms": medians["label"] * 1e3,
        "policy_change_ms": medians["policy"] * 1e3,
        "ratio_pod": medians["pod"] / full,
        "ratio_label": medians["label"] / full,
        "ratio_policy": medians["policy"] / full,
        "map_entries": size.resolver.entry_count,
        "tables": len(size.resolver.policies()),
        "verdicts_per_second": 1 / medians["judge"],
        "naive_verdicts_per_second": 1 / medians["naive"],
        "rss_mb": resolved,
        "rss_resolver_mb": resolved - loaded,
        "rss_interpreter_mb": empty,
        "rounds": len(times["judge"]),
    }
    if "naive_resolve_seconds" in medians:
        assert size.rebuild_naively() == size.resolver.entry_count, "the naive rebuild comes to other entries"
        result["naive_resolve_seconds"] = medians["naive_resolve_seconds"]
    return result


def measured_apart(policies: int, identities: int, rounds: int) -> dict[str, float] | None:
    """`measure` in a process of its own. None: it would have taken too long."""
    command = [sys.executable, __file__, "--one", f"{policies},{identities}", "--rounds", str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS * 2)
    except subprocess.TimeoutExpired:
        return None
    found: dict[str, float] = json.loads(done.stdout)
    return found


def agent() -> dict[str, float]:
    """A whole daemon: memory of its processes, and changes until they are in force."""
    command = [sys.executable, str(Path(__file__).with_name("policyagent.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS * 2)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def draw(sizes: dict[tuple[int, int], dict[str, float]]) -> str:
    """Cost against size."""
    series = []
    for policies in POLICIES:
        for name, field, factor, dashed in (
            ("all anew", "resolve_seconds", 1e3, False),
            ("one namespace label", "label_change_ms", 1.0, True),
        ):
            points = [(float(i), sizes[policies, i][field] * factor) for i in IDENTITIES if (policies, i) in sizes]
            if points:
                series.append(Series(f"{policies:,} policies, {name}", points, dashed, POLICIES.index(policies)))
    return log_log("Resolving policies: cost against size", "identities", "milliseconds", series)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help="POLICIES,IDENTITIES: one size, in this process, as JSON")
    parser.add_argument("--quick", action="store_true", help="the main size and the naive one only, nothing written")
    options = parser.parse_args()
    if options.one:
        policies, identities = map(int, options.one.split(","))
        print(json.dumps(measure(policies, identities, options.rounds)))
        return
    sizes: dict[tuple[int, int], dict[str, float]] = {}
    skipped = []
    print(
        f"{'policies':>8} {'identities':>10} {'compile s':>9} {'resolve s':>9} {'pod ms':>8} {'label ms':>8}"
        f" {'policy ms':>9} {'entries':>8} {'verdicts/s':>10} {'naive/s':>8} {'RSS MB':>7}"
    )
    for policies in POLICIES:
        for identities in IDENTITIES:
            if options.quick and (policies, identities) not in (MAIN, NAIVE):
                continue
            found = measured_apart(policies, identities, options.rounds)
            if found is None:
                skipped.append(f"{policies}x{identities}")
                print(f"{policies:>8} {identities:>10} skipped: took more than {LIMIT_SECONDS * 2} s")
                continue
            sizes[policies, identities] = found
            print(
                f"{policies:>8} {identities:>10} {found['compile_seconds']:>9.2f} {found['resolve_seconds']:>9.3f}"
                f" {found['pod_added_ms']:>8.2f} {found['label_change_ms']:>8.2f} {found['policy_change_ms']:>9.2f}"
                f" {found['map_entries']:>8.0f} {found['verdicts_per_second']:>10.0f}"
                f" {found['naive_verdicts_per_second']:>8.0f} {found['rss_mb']:>7.0f}",
                flush=True,
            )
    main_size = sizes[MAIN]
    summary: dict[str, Any] = {
        # The worst of the three changes: a label, a pod, a policy.
        "ratio_incremental": max(main_size[f"ratio_{what}"] for what in ("pod", "label", "policy")),
        **main_size,
        "naive_resolve_ratio": sizes[NAIVE]["naive_resolve_seconds"] / sizes[NAIVE]["resolve_seconds"],
        "naive_verdict_ratio": main_size["verdicts_per_second"] / main_size["naive_verdicts_per_second"],
        "skipped_sizes": len(skipped),
        **agent(),
    }
    for (policies, identities), found in sizes.items():
        for field in ("compile_seconds", "resolve_seconds", "label_change_ms", "rss_mb"):
            summary[f"{field}_{policies}x{identities}"] = found[field]
    summary = {name: float(f"{value:.4g}") for name, value in summary.items()}
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        everything = {
            "machine": machine(),
            "summary": summary,
            "sizes": {f"{policies}x{identities}": found for (policies, identities), found in sizes.items()},
            "skipped": skipped,
        }
        (RESULTS / "policy.json").write_text(json.dumps(everything, indent=1) + "\n")
        (RESULTS / "policy.svg").write_text(draw(sizes))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
