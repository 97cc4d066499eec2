# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests run in: a bare lab, and labs with the daemon on their node.

Every lab has names, paths and a BPF filesystem of its own, so the tests run beside each other and beside a live l7d.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from l7lab import Lab
from l7lab.gate import Gate


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab where nothing is enforced."""
    with Lab() as built:
        yield built


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    """The daemon with the example policies and all workloads registered, for the tests of one module.

    A test that changes policies puts them back with `gate.restore()` and a reload.
    """
    with Lab() as built:
        running = Gate(built)
        running.start()
        running.add_all()
        yield running


@pytest.fixture
def make_gate() -> Iterator[Callable[..., Gate]]:
    """Makes a daemon of the test's own: `make_gate(policies={"a.yaml": "…"})`, ready, with all workloads registered."""
    with ExitStack() as stack:

        def make(policies: dict[str, str] | None = None, settings: dict[str, object] | None = None) -> Gate:
            built = stack.enter_context(Lab())
            source: Path | None = None
            if policies is not None:
                source = built.folder / "given"
                source.mkdir()
                for name, text in policies.items():
                    (source / name).write_text(text)
            running = Gate(built, source, settings)
            running.start()
            running.add_all()
            return running

        yield make
