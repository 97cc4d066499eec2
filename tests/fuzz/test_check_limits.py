# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules check` as a user runs it, on what no daemon would load: its place is told soon, and in little memory.

Processor time and the largest memory are what the kernel counted for the whole child. A busy machine does its work more
slowly, so the time has some room over the two seconds that are promised.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 2 * 1.75
MEGABYTES = 200
HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a%d}\nspec:\n  endpointSelector: {}\n"
RULE = (
    "  - toEndpoints: [{matchLabels: {app: web, tier: front}}]\n"
    "    toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n"
    "      rules: {http: [{method: GET, path: /x/.*}]}\n"
)
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], check=False)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""
"""A small process in between: the memory of a child is counted from that of the process it was forked from."""
GROUP = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: %s, labels: {of: all}}\nspec:\n  %s\n"


def rules(documents: int, each: int) -> str:
    return "---\n".join(HEAD % number + "  egress:\n" + RULE * each for number in range(documents))


def described(size: int) -> str:
    """A policy that is valid but for its last line."""
    return HEAD % 0 + f"  description: '{'x' * size}'\n  egress: [{{}}]\n  ingres: [{{}}]\n"


def aliased(uses: int) -> str:
    return HEAD % 0 + "  egress:\n  - &r\n    toCIDR: [192.0.2.0/24]\n" + "  - *r\n" * uses


CASES: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "a valid policy of eight megabytes, and one wrong key": (
        lambda: described(8_380_000),
        ":8:3: unknown field ingres",
    ),
    "a file of nine megabytes": (lambda: described(9 << 20), "the file is larger than 8 MiB"),
    "more rules than a file can have, in one policy": (lambda: rules(1, 20_000), "more than 200000 values"),
    "more rules than a file can have, in many policies": (lambda: rules(200, 100), "more than 200000 values"),
    "one rule a million times, by aliases": (lambda: aliased(1_000_000), "more than 200000 values"),
    "a repeated key": (lambda: HEAD % 0 + "  egress: [{}]\n  egress: [{}]\n", ":7:3: key egress is repeated"),
    "text that is not UTF-8": (lambda: (HEAD % 0).encode() + b"  egress: ['\xe9']\n", "UTF-8"),
    "an expression of a megabyte": (
        lambda: HEAD % 0 + "  egress:\n" + RULE.replace("/x/.*", "x" * (1 << 20)),
        ":10:42: path: an expression of 1048576 characters",
    ),
    "five thousand expressions that RE2 refuses": (
        lambda: HEAD % 0 + "  egress:\n" + RULE.replace("/x/.*", "'(?=x)'") * 5_000,
        ":10:42: path: RE2 refuses",
    ),
    "ten thousand ports": (
        lambda: HEAD % 0 + "  egress:\n  - toPorts:\n    - ports:\n" + "      - {port: '80'}\n" * 10_000,
        ":9:7: 10000 ports in one element; at most 40 are allowed",
    ),
    "groups that refer to each other by name": (
        lambda: GROUP % ("a", "cidrGroupRef: b") + "---\n" + GROUP % ("b", "cidrGroupRef: a"),
        ":5:3: field cidrGroupRef is not allowed here: a group holds prefixes, and never other groups",
    ),
    "a group that selects itself": (
        lambda: GROUP % ("a", "externalCIDRs: [192.0.2.0/24]\n  cidrGroupSelector: {matchLabels: {of: all}}"),
        ":6:3: field cidrGroupSelector is not allowed here",
    ),
    "a group whose prefix is another group": (
        lambda: GROUP % ("a", "externalCIDRs: [{cidrGroupRef: a}]"),
        ":5:19: prefix must be text",
    ),
    "an unknown kind": (lambda: (HEAD % 0).replace("NetworkPolicy", "NetPolicy"), ":2:7: "),
    "an unknown version": (lambda: (HEAD % 0).replace("cilium.io/v2", "cilium.io/v3"), ":1:13: "),
}


@pytest.mark.parametrize("case", CASES)
def test_check_tells_the_place_within_its_time_and_memory(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    given = make()
    file = tmp_path / "bad.yaml"
    file.write_bytes(given if isinstance(given, bytes) else given.encode())
    command = [sys.executable, "-c", MEASURED, Path(sys.executable).with_name("l7ctl"), "rules", "check", file]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    assert done.returncode == 1, done.stdout[:2000] + done.stderr[:2000]
    assert expected in done.stdout, done.stdout[:2000]
    seconds, kilobytes = map(float, done.stderr.splitlines()[-1].split())
    assert seconds < SECONDS
    assert kilobytes < MEGABYTES << 10
