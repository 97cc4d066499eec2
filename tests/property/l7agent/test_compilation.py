# SPDX-License-Identifier: Apache-2.0
"""Whatever is compiled, called off and brought into force: the kernel ends with what a fresh compiler writes.

The kernel is a dictionary to which the rows are applied in the order of `l7agent.reload`.
"""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from l7agent.compilation import Compiled, Compiler
from l7agent.endpoints import Declared, Endpoint
from l7agent.identities import Identities
from l7policy import documents
from l7policy.entries import Entry
from l7policy.ids import ANY_IDENTITY, EndpointId
from l7policy.policydoc import Policy, Source
from l7policy.resolver import Row

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: NAME}
spec:
  endpointSelector: {matchLabels: {app: SUBJECT}}
  ingress: [{fromEndpoints: [{matchLabels: {app: PEER}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
  egress: [{toCIDR: [PREFIX]}, {toEntities: [cluster]}]
"""
APPS = ("a", "b", "c")
PREFIXES = ("198.51.100.0/24", "198.51.100.0/25", "2001:db8::/32")
CHOICES = st.tuples(
    st.sampled_from(["one", "two"]), st.sampled_from(APPS), st.sampled_from(APPS), st.sampled_from(PREFIXES)
)
STEPS = st.lists(
    st.tuples(
        st.lists(CHOICES, max_size=2, unique_by=lambda choice: choice[0]),
        st.dictionaries(st.integers(1, 4), st.sampled_from(APPS), max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
Kernel = dict[tuple[bytes, int, int, int, int, int], Entry]


def policies_of(choices: list[tuple[str, str, str, str]]) -> tuple[Policy, ...]:
    texts = []
    for values in choices:
        text = POLICY
        for word, value in zip(("NAME", "SUBJECT", "PEER", "PREFIX"), values, strict=True):
            text = text.replace(word, value)
        texts.append(text)
    return documents.load([Source("policies.yaml", "---\n".join(texts))])


def endpoints_of(apps: dict[int, str]) -> list[Endpoint]:
    return [
        Endpoint(EndpointId(number), Declared(f"pod{number}", f"pod{number}", (f"k8s:app={app}",)))
        for number, app in apps.items()
    ]


def key(row: Row, entry: Entry) -> tuple[bytes, int, int, int, int, int]:
    return row.policy, entry.identity, entry.direction, entry.protocol, entry.port, entry.port_bits


def stage(kernel: Kernel, compiled: Compiled) -> list[tuple[bytes, int, int, int, int, int]]:
    written = []
    for row in compiled.written:
        for entry in row.added():
            assert key(row, entry) not in kernel, "what is staged must overwrite nothing that is in force"
            kernel[key(row, entry)] = entry
            written.append(key(row, entry))
    return written


def collect(kernel: Kernel, compiled: Compiled, gone: list[Row]) -> None:
    for row in (*compiled.stale, *gone):
        for entry in row.removed():
            del kernel[key(row, entry)]


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_the_kernel_ends_with_what_a_fresh_compiler_writes(
    steps: list[tuple[list[tuple[str, str, str, str]], dict[int, str], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        identities = Identities(Path(folder) / "identities.json")
        compiler = Compiler(identities)
        kernel: Kernel = {}
        for choices, apps, succeeds in steps:
            before = dict(kernel)
            policies, endpoints = policies_of(choices), endpoints_of(apps)
            compiled = compiler.compile(policies, endpoints, ["192.0.2.1"])
            written = stage(kernel, compiled)
            for digest in compiled.tables:
                for number in (ANY_IDENTITY, *compiled.identities):
                    assert _rows(kernel, digest, number) == _rows(
                        _fresh(identities, policies, endpoints), digest, number
                    )
            if not succeeds:
                for place in written:
                    del kernel[place]
                compiler.abort()
                assert kernel == before
                continue
            collect(kernel, compiled, compiler.commit())
            identities.retain(set(compiled.identities))
            assert kernel == _fresh(identities, policies, endpoints)


def _fresh(identities: Identities, policies: tuple[Policy, ...], endpoints: list[Endpoint]) -> Kernel:
    kernel: Kernel = {}
    stage(kernel, Compiler(identities).compile(policies, endpoints, ["192.0.2.1"]))
    return kernel


def _rows(kernel: Kernel, digest: bytes, identity: int) -> Kernel:
    return {place: entry for place, entry in kernel.items() if place[:2] == (digest, identity)}


def test_a_change_writes_only_what_it_changes(tmp_path: Path) -> None:
    compiler = Compiler(Identities(tmp_path / "identities.json"))
    policies = policies_of([("one", "a", "b", PREFIXES[0]), ("two", "b", "c", PREFIXES[1])])
    compiler.compile(policies, endpoints_of({1: "a", 2: "b"}), [])
    compiler.commit()
    again = compiler.compile(policies, endpoints_of({1: "a", 2: "b"}), [])
    assert (again.written, again.stale, compiler.commit()) == ([], [], [])
    joined = compiler.compile(policies, endpoints_of({1: "a", 2: "b", 3: "c"}), [])
    assert {row.identity for row in joined.written if row.policy in again.tables} == {
        joined.endpoint_identities[EndpointId(3)]
    }
    assert joined.stale == []
