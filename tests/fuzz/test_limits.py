# SPDX-License-Identifier: Apache-2.0
"""Whatever is given to the reader of policies, the answer is an error with the place, soon, and in little memory.

Each case runs in a process of its own with limits that the kernel enforces: 200 MB more than the interpreter has, and
two seconds of processor time.
"""

import subprocess
import sys
from collections.abc import Callable

import pytest

from l7policy.errors import PolicyErrors

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n"
READ = """
import resource, sys
from l7policy import documents
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Source
import re2
text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 3,) * 2)
try:
    documents.load([Source("bad.yaml", text)])
except PolicyErrors as errors:
    print(str(errors)[:2000])
    took = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - spent
    sys.exit(0 if took < 2 else f"took {took:.1f} s")
sys.exit("accepted")
"""


def laughs() -> str:
    levels = "".join(f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
    return HEAD + "  ingress:\n  - &l0 [lol]\n" + levels


def ports(count: int) -> str:
    lines = "".join(f'    - {{port: "{1 + number % 65535}", protocol: TCP}}\n' for number in range(count))
    return HEAD + "  egress:\n  - toPorts:\n    - ports:\n" + lines.replace("    - {", "      - {")


def http(path: str) -> str:
    rule = f"      rules: {{http: [{{path: '{path}'}}]}}\n"
    return HEAD + "  egress:\n  - toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n" + rule


CASES: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "ten megabytes of comments": (lambda: HEAD + "# padding\n" * (1 << 20), "bad.yaml:"),
    "eight megabytes of list": (lambda: HEAD + "  ingress:\n" + "  - {}\n" * ((8 << 20) // 7 - 100), "bad.yaml:"),
    "one deep flow": (lambda: HEAD + "  ingress: " + "[" * 100_000, "bad.yaml:6:"),
    "a billion laughs": (laughs, "bad.yaml:"),
    "an anchor inside of itself": (lambda: HEAD + "  ingress: &a [*a]\n", "bad.yaml:6:"),
    "a repeated key": (lambda: HEAD + "  endpointSelector: {}\n", "bad.yaml:6:3"),
    "a surrogate": (lambda: HEAD.encode() + b"  ingress: ['\xff']\n", "bad.yaml:6:"),
    "ten thousand ports": (lambda: ports(10_000), "bad.yaml:"),
    "a huge expression": (lambda: http("a" * 1_000_000), "bad.yaml:9:"),
    "an expression that explodes": (lambda: http("((a{1,1000}){1,1000}){1,1000}"), "bad.yaml:9:"),
    "an expression with a look-ahead": (lambda: http("(?=a)b"), "bad.yaml:9:"),
    "an unknown kind": (lambda: HEAD.replace("NetworkPolicy", "NetPolicy"), "bad.yaml:2:7"),
    "an unknown version": (lambda: HEAD.replace("cilium.io/v2", "cilium.io/v9"), "bad.yaml:1:13"),
    "half a million unknown fields": (
        lambda: HEAD + "".join(f"  f{n}: 1\n" for n in range(400_000)),
        "bad.yaml:",
    ),
    "a hundred thousand documents": (lambda: "--- {a: b}\n" * 100_000, "bad.yaml:"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_an_error_with_its_place_soon_and_in_little_memory(case: str) -> None:
    make, place = CASES[case]
    text = make()
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run([sys.executable, "-c", READ], input=data, capture_output=True, timeout=60, check=False)
    output = done.stdout.decode() + done.stderr.decode()[-1500:]
    assert done.returncode == 0, output
    assert place in output
    assert PolicyErrors.__name__ not in done.stderr.decode()
