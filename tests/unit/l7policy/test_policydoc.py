# SPDX-License-Identifier: Apache-2.0
import msgspec
import pytest

from l7policy.documents import Source, load
from l7policy.policydoc import Policy

TEXT = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a}
spec:
  endpointSelector: {matchLabels: {app: a}}
  egress:
  - toCIDR: [192.0.2.0/24]
"""


def policy(text: str = TEXT, path: str = "f") -> Policy:
    (found,) = load([Source(path, text)])
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("apiVersion", "# a comment\n\napiVersion"),
        ("[192.0.2.0/24]", "\n    - 192.0.2.9/24"),
        ("spec:\n", "spec:\n  description: why\n"),
        ("{app: a}", "{'any:app': \"a\"}"),
    ],
)
def test_the_digest_stays_when_only_the_writing_changes(before: str, after: str) -> None:
    assert before in TEXT
    assert policy(TEXT.replace(before, after), "elsewhere").digest == policy().digest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: a", "name: b"),
        ("{app: a}", "{app: b}"),
        ("192.0.2.0/24", "192.0.2.0/25"),
        ("egress", "egressDeny"),
        ("spec:\n", "spec:\n  enableDefaultDeny: {egress: false}\n"),
    ],
)
def test_the_digest_changes_with_the_meaning(before: str, after: str) -> None:
    assert before in TEXT
    assert policy(TEXT.replace(before, after)).digest != policy().digest


def test_a_policy_survives_the_wire() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy()), type=Policy) == policy()
