# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests run in: a bare lab, and labs with the daemon on their node.

Every lab has names, paths and a BPF filesystem of its own, so the tests run beside each other and beside a live l7d.
Whatever a test does to the daemon, no traceback may reach its log or the standard error of `l7ctl`: the fixtures here
check that when the lab is left.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from l7lab import Lab
from l7lab.gate import Command, Gate

TRACEBACK = "Traceback (most recent call last)"


class WatchedGate(Gate):
    """A gate whose programs never show a traceback."""

    def ctl(self, *arguments: str, timeout: float = 30.0) -> Command:
        done = super().ctl(*arguments, timeout=timeout)
        assert TRACEBACK not in done.out + done.err
        assert "internal error" not in done.err
        return done

    def check_logs(self) -> None:
        """The agent and its processes share one log."""
        log = self.lab.folder / "l7d.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        assert TRACEBACK not in text, text[text.index(TRACEBACK) - 500 :][:4000]


@contextmanager
def gated(policies: dict[str, str] | None = None, settings: dict[str, object] | None = None) -> Iterator[Gate]:
    """A lab with a daemon that is not started yet. No policies given: the examples."""
    with Lab() as built:
        source: Path | None = None
        if policies is not None:
            source = built.folder / "given"
            source.mkdir()
            for name, text in policies.items():
                (source / name).write_text(text)
        gate = WatchedGate(built, source, settings)
        yield gate
        gate.check_logs()


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder is that of the whole run, whatever process of it this is."""
    Gate.cache = tmp_path_factory.getbasetemp().parent / "compiled"


@pytest.fixture(scope="session")
def new_gate() -> Callable[..., AbstractContextManager[Gate]]:
    """`gated`, for fixtures that outlive a test."""
    return gated


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
    with gated() as running:
        running.start()
        running.add_all()
        yield running


@pytest.fixture(scope="module")
def module_gate() -> Iterator[Callable[..., Gate]]:
    """Makes a daemon with a module's own policies, ready, with all workloads registered."""
    with ExitStack() as stack:

        def make(policies: dict[str, str], settings: dict[str, object] | None = None) -> Gate:
            running = stack.enter_context(gated(policies, settings))
            running.start()
            running.add_all()
            return running

        yield make


@pytest.fixture
def unstarted_gate() -> Iterator[Callable[..., Gate]]:
    """Makes a daemon that is configured and not started, on a lab of the test's own."""
    with ExitStack() as stack:

        def make(policies: dict[str, str] | None = None, settings: dict[str, object] | None = None) -> Gate:
            return stack.enter_context(gated(policies, settings))

        yield make


@pytest.fixture
def make_gate(unstarted_gate: Callable[..., Gate]) -> Callable[..., Gate]:
    """Makes a daemon of the test's own: `make_gate(policies={"a.yaml": "…"})`, ready, with all workloads registered."""

    def make(policies: dict[str, str] | None = None, settings: dict[str, object] | None = None) -> Gate:
        running = unstarted_gate(policies, settings)
        running.start()
        running.add_all()
        return running

    return make
