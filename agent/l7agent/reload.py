# SPDX-License-Identifier: Apache-2.0
"""The transaction that brings a compiled rule set into force: everything or nothing, with no packet unjudged between.

    stage     entries of new policies and new identities are written beside the old ones; nothing refers to them yet
    prepare   dns and every http worker acknowledge the snapshot; from here they can judge under both revisions
    publish   ipcache prefixes, then each endpoint's policy id (one write each), then the revision: conntrack entries
              and kept-alive connections of older revisions are judged again
    collect   what nothing refers to any more is deleted

A failure before publish unstages and nothing has changed. Publishing that finds a table full takes back what it wrote.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from l7agent.compilation import Compiled, Compiler
from l7agent.dataprocess import NotAcknowledged
from l7agent.endpoints import Endpoint
from l7agent.kernel_state import KernelState
from l7agent.supervisor import Supervisor
from l7bpf.errors import DatapathError
from l7policy.model import Snapshot


class ReloadFailed(Exception):
    """The rule set did not come into force; the one before it is untouched."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload did."""

    revision: int
    changed: bool
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    """Those that got other rules, by name."""
    seconds: float = 0.0


async def transact(
    compiled: Compiled,
    revision: int,
    endpoints: Iterable[Endpoint],
    compiler: Compiler,
    kernel: KernelState,
    supervisor: Supervisor,
) -> Snapshot:
    """Brings `compiled` into force as `revision`. Raises ReloadFailed."""
    try:
        snapshot = await _publish(compiled, revision, endpoints, kernel, supervisor)
    except BaseException:  # also when the agent is told to stop in the middle
        kernel.unstage()
        compiler.abort()
        raise
    supervisor.commit(snapshot)
    kernel.collect(compiler.commit())
    return snapshot


async def _publish(
    compiled: Compiled, revision: int, endpoints: Iterable[Endpoint], kernel: KernelState, supervisor: Supervisor
) -> Snapshot:
    try:
        snapshot = kernel.stage(compiled, endpoints, revision)
    except (DatapathError, OSError) as error:
        raise ReloadFailed(f"the kernel could not take the rules: {error}") from error
    try:
        await supervisor.prepare(snapshot)
    except NotAcknowledged as error:
        raise ReloadFailed(f"not every process got ready: {error}") from error
    try:
        kernel.publish()
    except (DatapathError, OSError) as error:
        supervisor.abort(revision)
        raise ReloadFailed(f"the kernel could not take the rules: {error}") from error
    return snapshot
