# SPDX-License-Identifier: Apache-2.0
"""How fast HTTP passes: direct, under L4 policy, through l7gate, and through other proxies with the same rules.

All paths stand at the same time; every round measures every scenario on every path, one after the other, beginning with
another one each time. Ratios are taken within a round, and told as the median of the rounds. Prints a table, writes
bench/results/http.{json,svg}; the last line is one flat JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bars import Group, bars
from httplab import NAMES, OTHER, PEERS, VENV, HttpLab, Target
from httpload import SCENARIOS, Sample, Scenario, measure
from machine import alone, machine

from l7lab.namespace import LabError

RESULTS = Path(__file__).parent / "results"
Samples = dict[tuple[str, str], list[Sample]]
"""By scenario and target, one for each round."""


def play(
    lab: HttpLab, scenarios: Sequence[Scenario], rounds: int, seconds: int, lock: str | None
) -> tuple[Samples, dict[tuple[str, str], str]]:
    """Every figure of every round; and what peers could not do, of which no figure of any round is kept."""
    samples: Samples = defaultdict(list)
    unable: dict[tuple[str, str], str] = {}
    for number in range(rounds):
        with alone(lock):
            for scenario in scenarios:
                able = [
                    (target, port)
                    for target in lab.targets
                    if (port := target.port(scenario)) is not None and (scenario.name, target.name) not in unable
                ]
                at = number % len(able)
                for target, port in able[at:] + able[:at]:
                    which = scenario.name, target.name
                    try:
                        samples[which].append(once(lab, target, port, scenario, seconds))
                    except LabError as error:
                        if target.name not in PEERS:
                            raise
                        print(f"left out: {error}", file=sys.stderr, flush=True)
                        unable[which] = str(error)
                        samples.pop(which, None)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return dict(samples), unable


def once(lab: HttpLab, target: Target, port: int, scenario: Scenario, seconds: int) -> Sample:
    """One figure."""
    try:
        return measure(target.client, target.address, port, scenario, seconds, target.pids, lab.upload)
    except LabError as error:
        raise LabError(f"{target.name}: {error}") from error
    finally:
        target.tidy()


def ratio(samples: Samples, scenario: str, one: str, other: str) -> float | None:
    """Median over the rounds of one target's rate by another's in the same round."""
    if (scenario, one) not in samples or (scenario, other) not in samples:
        return None
    pairs = zip(samples[scenario, one], samples[scenario, other], strict=True)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def summarise(samples: Samples) -> dict[str, float]:
    """The flat object of the last line."""
    ratios = {
        "ratio_envoy": ("c32", "l7gate", "envoy"),
        "ratio_haproxy": ("c32", "l7gate", "haproxy"),
        "ratio_mitmproxy": ("c32", "l7gate", "mitmproxy"),
        "ratio_direct": ("c32", "l7gate", "direct"),
        "ratio_l4": ("c32", "l4", "direct"),
        "ratio_workers": ("c32", "l7gate2", "l7gate"),
        "ratio_body": ("down100m", "l7gate", "direct"),
        "ratio_body_up": ("up100m", "l7gate", "direct"),
        "deny_ratio_envoy": ("denied", "l7gate", "envoy"),
        "deny_ratio_haproxy": ("denied", "l7gate", "haproxy"),
    }
    for scenario in SCENARIOS:
        for peer in ("envoy", "haproxy", "direct", OTHER):
            ratios[f"{scenario.name}_ratio_{peer}"] = (scenario.name, "l7gate", peer)
    summary = {}
    for name, of in ratios.items():
        found = ratio(samples, *of)
        if found is not None:
            summary[name] = found
    for (scenario, target), found in samples.items():
        for field in ("rate", "p99"):
            value = middle(found, field)
            if value:
                summary[f"{scenario}_{target}_{field}"] = value
    return {name: float(f"{value:.4g}") for name, value in summary.items()}


def middle(samples: Sequence[Sample], field: str) -> float:
    """Median of one figure."""
    return statistics.median(asdict(sample)[field] for sample in samples)


def table(samples: Samples, scenarios: Sequence[Scenario], targets: Sequence[str]) -> str:
    """Medians for people."""
    lines = []
    for scenario in scenarios:
        unit = "MiB" if scenario.kind.startswith("large") else "req"
        lines.append(f"\n{scenario.title}")
        lines.append(
            f"  {'':<10} {unit + '/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'cpu us/' + unit:>10}"
            f" {'RSS MB':>7} {'/direct':>8} {'/envoy':>7} {'/other':>7}"
        )
        for target in targets:
            found = samples.get((scenario.name, target))
            if not found:
                continue
            figures = {field: middle(found, field) for field in ("rate", "p50", "p99", "p999", "cpu", "rss")}
            beside = [ratio(samples, scenario.name, target, peer) for peer in ("direct", "envoy", OTHER)]
            text = [f"{value:.2f}" if value is not None else "" for value in beside]
            lines.append(
                f"  {target:<10} {figures['rate']:>9,.0f} {figures['p50']:>8.3f} {figures['p99']:>8.3f}"
                f" {figures['p999']:>9.3f} {figures['cpu']:>10.1f} {figures['rss']:>7.0f} {text[0]:>8} {text[1]:>7}"
                f" {text[2]:>7}"
            )
    return "\n".join(lines)


def draw(samples: Samples, scenarios: Sequence[Scenario], targets: Sequence[str]) -> str:
    """Rates as bars, each scenario by its own fastest."""
    groups = []
    for scenario in scenarios:
        rates = {t: middle(samples[scenario.name, t], "rate") for t in targets if samples.get((scenario.name, t))}
        groups.append(Group(scenario.title, rates, "MiB/s" if scenario.kind.startswith("large") else "req/s"))
    return bars("HTTP through policy: medians of interleaved rounds", targets, groups)


def versions() -> dict[str, str]:
    """What was compared with."""
    asked = {
        "envoy": [str(VENV / "envoy"), "--version"],
        "haproxy": ["haproxy", "-v"],
        "mitmproxy": [str(VENV / "mitmdump"), "--version"],
        "nginx": ["nginx", "-v"],
    }
    found = {}
    for name, argv in asked.items():
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        said = next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "")
        found[name] = said.replace(argv[0], name)  # where it lies is nobody's matter
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load for one figure")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, 3 rounds of 1 s, nothing written")
    parser.add_argument("--targets", default=",".join(NAMES), help=f"of {','.join(NAMES)}")
    parser.add_argument("--scenarios", help=f"of {','.join(scenario.name for scenario in SCENARIOS)}")
    parser.add_argument("--other", type=Path, help="a source tree whose l7gate is measured beside this one's")
    parser.add_argument("--settings", default="{}", help="more of l7d's configuration, as JSON")
    parser.add_argument("--lock", help="a file to lock while a round is measured")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 3), min(options.seconds, 1)
    wanted = options.scenarios.split(",") if options.scenarios else None
    scenarios = [s for s in SCENARIOS if (s.name in wanted if wanted else s.quick or not options.quick)]
    names = options.targets.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no such target: {' '.join(unknown)}")
    if wanted and (unknown := [name for name in wanted if name not in [s.name for s in SCENARIOS]]):
        parser.error(f"no such scenario: {' '.join(unknown)}")
    began = time.monotonic()
    with HttpLab(names, json.loads(options.settings), options.other) as lab:
        targets = [target.name for target in lab.targets]
        samples, unable = play(lab, scenarios, options.rounds, options.seconds, options.lock)
    print(table(samples, scenarios, targets))
    print(f"\n{options.rounds} rounds in {time.monotonic() - began:.0f} s, load average {os.getloadavg()[0]:.1f}")
    summary = summarise(samples)
    if not options.quick and not wanted and not options.other and names == list(NAMES):
        RESULTS.mkdir(exist_ok=True)
        everything = {
            "machine": machine(),
            "versions": versions(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "summary": summary,
            "left_out": {"/".join(which): why for which, why in unable.items()},
            "samples": {
                f"{scenario}/{target}": [asdict(sample) for sample in found]
                for (scenario, target), found in samples.items()
            },
        }
        (RESULTS / "http.json").write_text(json.dumps(everything) + "\n")
        (RESULTS / "http.svg").write_text(draw(samples, scenarios, targets))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
