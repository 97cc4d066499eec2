# SPDX-License-Identifier: Apache-2.0
"""What a packet's verdict costs, and how that grows with the rules: l7gate beside nothing, iptables and nftables.

Every round measures every variant, one after the other, beginning with another one each time. Ratios are taken within
a round and told as the median of the rounds, with the range. Prints a table, writes bench/results/datapath.{json,svg};
the last line is one flat JSON object.
"""

import argparse
import json
import statistics
import struct
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path
from socket import inet_aton
from typing import Final

from datapathlab import BULK_PORT, COUNTS, FIREWALLS, NONE, PORT, DatapathLab
from httplab import SERVER
from machine import alone, machine
from plot import Series, log_log

from l7lab.namespace import LabError

RESULTS: Final = Path(__file__).parent / "results"
WRK: Final = Path(__file__).with_name("wrk.lua")
Variant = tuple[str, int]
Samples = dict[tuple[str, Variant], list[float]]
"""By figure and variant, one for each round."""

FEW, MANY = COUNTS[0], COUNTS[-1]
VARIANTS: Final = ((NONE, 0), *((firewall, count) for count in COUNTS for firewall in FIREWALLS))
BULK: Final = ((NONE, 0), *((firewall, FEW) for firewall in FIREWALLS))
TITLES: Final = {
    "connect": "connect(), median µs",
    "close": "connections/s",
    "same": "requests/s, kept alive",
    "bulk": "Gbit/s",
}
CONNECTS: Final = 400
CONNECT: Final = """
import socket, statistics, sys, time
taken = []
for _ in range(int(sys.argv[3])):
    with socket.socket() as sock:
        began = time.perf_counter()
        sock.connect((sys.argv[1], int(sys.argv[2])))
        taken.append(time.perf_counter() - began)
print(statistics.median(taken) * 1e6)
"""
SYN, ACK = 0x02, 0x10
TEST_RUNS: Final = 100_000
NEW_FLOWS: Final = 1_000
VERDICT_ROUNDS: Final = 21
PAIRS: Final = 24
"""Comparisons of l7gate with nothing, a second each, one right after the other: other load on the machine changes less
in between."""
BULK_EVERY: Final = 3
"""Pairs of which one is measured with one large transfer, too."""


def frame(source: str, flags: int, port: int = 0) -> bytes:
    """A TCP packet from the workload to the server. No program looks at checksums."""
    tcp = struct.pack(">HHIIBBHHH", port, PORT, 1, 0, 5 << 4, flags, 65535, 0, 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + inet_aton(source) + inet_aton(SERVER)
    return bytes.fromhex("020000000002020000000001" + "0800") + ip + tcp


def verdicts(lab: DatapathLab, rounds: int) -> dict[str, list[float]]:
    """Nanoseconds for each packet: of new flows, each of which policy judges, and of a known one over and over.

    That is in a cache as warm as can be, the new ones find it as a system call leaves it.
    """
    found: dict[str, list[float]] = defaultdict(list)
    ports = iter(range(1, 1 << 16))
    for number in range(rounds):
        for count in COUNTS if number % 2 else COUNTS[::-1]:
            new = [frame(lab.lab.frontend.v4, SYN, port) for port in islice(ports, NEW_FLOWS)]
            found[f"new_{count}"].append(lab.nanoseconds(count, new))
            found[f"known_{count}"].append(lab.nanoseconds(count, [frame(lab.lab.frontend.v4, ACK, 1)], TEST_RUNS))
    return dict(found)


def wrk(lab: DatapathLab, kind: str, seconds: int) -> float:
    """Requests a second. Raises LabError if anything but the expected answers came."""
    argv = ["wrk", "-t1", "-c32", f"-d{seconds}s", "--timeout", "10s", "-s", str(WRK), f"http://{SERVER}:{PORT}/"]
    lines = lab.must(lab.client, [*argv, "--", kind, "/"], timeout=seconds + 60).splitlines()
    found = json.loads(next(line for line in lines if line.startswith("{")))
    if found["not_2xx"] or not found["requests"] or found["errors"] > found["requests"] / 1000:
        raise LabError(f"wrk {kind}: not what was expected: {found}")
    return float(found["requests"] / found["seconds"])


def bulk(lab: DatapathLab, seconds: int) -> float:
    """Gbit/s of one TCP connection to the server."""
    argv = ["iperf3", "-c", SERVER, "-p", str(BULK_PORT), "-t", str(seconds), "-J"]
    answer = json.loads(lab.must(lab.client, argv, timeout=seconds + 60))
    return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e9


def connect(lab: DatapathLab) -> float:
    """Median microseconds of one connect() after the other."""
    argv = [sys.executable, "-c", CONNECT, SERVER, str(PORT), str(CONNECTS)]
    return float(lab.must(lab.client, argv))


def traffic(lab: DatapathLab, rounds: int, seconds: int, lock: str | None) -> Samples:
    """Every figure of every round."""
    samples: Samples = defaultdict(list)
    for number in range(rounds):
        with alone(lock):
            at = number % len(VARIANTS)
            for variant in VARIANTS[at:] + VARIANTS[:at]:
                with lab.standing(*variant):
                    samples["connect", variant].append(connect(lab))
                    samples["close", variant].append(wrk(lab, "close", seconds))
                    samples["same", variant].append(wrk(lab, "same", seconds))
                    if variant in BULK:
                        samples["bulk", variant].append(bulk(lab, seconds))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return dict(samples)


def compare(lab: DatapathLab, pairs: int, lock: str | None) -> dict[str, list[float]]:
    """What l7gate's programs leave of requests a second, and of Gbit/s, in each pair."""
    found: dict[str, list[float]] = defaultdict(list)
    measures = {"ratio_l4": lambda: wrk(lab, "same", 1), "ratio_bulk": lambda: bulk(lab, 1)}
    for number in range(pairs):
        for figure, measure in measures.items():
            if figure == "ratio_bulk" and number % BULK_EVERY:
                continue
            got: dict[str, float] = {}
            with alone(lock):
                for variant in ((NONE, 0), ("l7gate", FEW)) if number % 2 else (("l7gate", FEW), (NONE, 0)):
                    with lab.standing(*variant):
                        got[variant[0]] = measure()
            found[figure].append(got["l7gate"] / got[NONE])
    return dict(found)


def live(lab: DatapathLab, lock: str | None) -> dict[str, float]:
    """Nanoseconds of each program for a packet of kept connections under load, where caches hold other things, too."""
    with alone(lock), lab.standing("l7gate", FEW):
        return lab.live_nanoseconds(lambda: wrk(lab, "same", 3))


def ratios(samples: Samples, figure: str, one: Variant, other: Variant) -> list[float]:
    """Of each round."""
    return [a / b for a, b in zip(samples[figure, one], samples[figure, other], strict=True)]


def name(variant: Variant) -> str:
    """As in the JSON: ``l7gate_1000``."""
    return variant[0] if variant[0] == NONE else f"{variant[0]}_{variant[1]}"


def grown(cost: dict[str, list[float]], kind: str) -> list[float]:
    """What a packet costs with many rules, in packets with few."""
    return [many / few for many, few in zip(cost[f"{kind}_{MANY}"], cost[f"{kind}_{FEW}"], strict=True)]


def summary(cost: dict[str, list[float]], compared: dict[str, list[float]], samples: Samples) -> dict[str, float]:
    """The flat object."""
    found: dict[str, float] = {f"ns_{key}": round(statistics.median(values)) for key, values in cost.items()}
    told = {"ratio_10k_rules": grown(cost, "new"), "ratio_10k_rules_known": grown(cost, "known"), **compared}
    for key, values in told.items():
        found[key] = round(statistics.median(values), 3)
        found[f"{key}_min"], found[f"{key}_max"] = round(min(values), 3), round(max(values), 3)
    for firewall in FIREWALLS:
        for figure in ("close", "connect"):
            grew = statistics.median(ratios(samples, figure, (firewall, MANY), (firewall, FEW)))
            found[f"ratio_{figure}_{firewall}_10k"] = round(grew, 3)
    for (figure, variant), values in samples.items():
        digits = 2 if figure == "bulk" else 1
        found[f"{figure}_{name(variant)}"] = round(statistics.median(values), digits)
    return found


def table(samples: Samples) -> str:
    """Medians and ranges, as Markdown."""
    lines = ["| | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
    for variant in VARIANTS:
        cells = []
        for figure in TITLES:
            values = samples.get((figure, variant), [])
            cells.append(
                f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})" if values else ""
            )
        title = variant[0] if variant[0] == NONE else f"{variant[0]}, {variant[1]:,} rules"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(samples: Samples) -> str:
    """What a new connection waits, against the number of rules."""
    series = []
    for colour, firewall in enumerate(FIREWALLS):
        points = [(float(count), statistics.median(samples["connect", (firewall, count)])) for count in COUNTS]
        series.append(Series(firewall, points, firewall != "l7gate", colour))
    return log_log("A new connection through a list of rules", "rules", "connect(), median µs", series)


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each figure")
    parser.add_argument("--lock", help="hold this file's lock during each round")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, nothing is written")
    given = parser.parse_args()
    rounds, seconds = (2, 1) if given.quick else (given.rounds, given.seconds)
    with DatapathLab() as lab:
        with alone(given.lock):
            cost = verdicts(lab, VERDICT_ROUNDS)
        compared = compare(lab, 2 if given.quick else PAIRS, given.lock)
        loaded = live(lab, given.lock)
        samples = traffic(lab, rounds, seconds, given.lock)
        instructions = lab.instructions
    found = summary(cost, compared, samples)
    found |= {f"ns_live_{name}": round(taken) for name, taken in loaded.items()}
    print(table(samples))
    print(
        "\nns for each packet: " + ", ".join(f"{key} {statistics.median(values):.0f}" for key, values in cost.items())
    )
    print("under load: " + ", ".join(f"{name} {taken:.0f}" for name, taken in loaded.items()))
    if not given.quick:
        rows = {f"{figure}_{name(variant)}": values for (figure, variant), values in samples.items()}
        about = {"machine": machine(), "rounds": rounds, "seconds": seconds, "instructions": instructions}
        (RESULTS / "datapath.json").write_text(
            json.dumps({**about, **found, "samples": rows, "ns": cost, "pairs": compared}, indent=1) + "\n"
        )
        (RESULTS / "datapath.svg").write_text(picture(samples))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
