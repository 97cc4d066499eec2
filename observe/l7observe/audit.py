# SPDX-License-Identifier: Apache-2.0
"""AuditLog: one JSON line per deny, written beside the data path and never in its way.

`write` encodes the record and appends it to a queue bounded in bytes; a thread of its own does everything that can wait
for a disk. A thread, and not the event loop's executor, because the log must go on while the loop is busy, and must
drain after it has stopped.

Failure verdict: nothing is let through or held up for the log's sake. While the file cannot be written (disk full, no
permission, folder gone) records wait in the queue, writing is tried again every second, and what finds the queue full
is counted in `lost`, with the reason in `error`. Lines come out whole or not at all (`l7observe.logfile`). They survive
the process, not a power cut: nothing is fsynced.

Every deny has a record, but for two kinds that cost a workload next to nothing to make, of which each endpoint has a
share: what passes because of audit mode, and questions about names that are refused. A busy endpoint would rotate away
what others were denied. What is over the share is counted in the next record of its kind.
"""

import errno
import logging
import os
import platform
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from l7observe import record
from l7observe.flow import Flow
from l7observe.logfile import LogFile
from l7observe.ratelimit import RateLimit
from l7policy.verdict import Verdict

QUEUE_BYTES: Final = 4 << 20
"""About eight thousand records."""
RETRY_SECONDS: Final = 1.0
AUDITED_PER_SECOND: Final = 100

_log = logging.getLogger(__name__)


class AuditLog:
    """The audit log of one node."""

    def __init__(
        self,
        path: Path | str,
        max_bytes: int = 50 << 20,
        backups: int = 5,
        *,
        node: str | None = None,
        group: str | None = None,
        queue_bytes: int = QUEUE_BYTES,
        retry_seconds: float = RETRY_SECONDS,
        audited_per_second: int = AUDITED_PER_SECOND,
        refused_names_per_second: int = 0,
    ) -> None:
        """Starts the writer. `node` defaults to the host's name; `group` may read the files, if it exists.

        `audited_per_second` records of verdict AUDIT are written of one endpoint, and `refused_names_per_second` of
        DNS that was denied; 0: all.
        """
        self.path = Path(path)
        self._node = platform.node() if node is None else node
        self._file = LogFile(self.path, max_bytes, backups, group)
        self._queue_bytes = queue_bytes
        self._retry_seconds = retry_seconds
        self._change = threading.Condition()
        # All below are guarded by _change.
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._busy = True
        self._reopen = False
        self._closing = False
        self._written = 0
        self._lost = 0
        self._failing = ""
        self._loss = ""
        self._audited = RateLimit(audited_per_second)
        self._refused = RateLimit(refused_names_per_second)
        self._left_out: dict[tuple[Verdict, int], int] = {}
        """Since the last record of its kind that was written, by endpoint."""
        self._left_out_ever = 0
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Records that are in the file."""
        return self._written

    @property
    def lost(self) -> int:
        """Records that will never be in the file."""
        return self._lost

    @property
    def left_out(self) -> int:
        """Records that were over their endpoint's share."""
        return self._left_out_ever

    @property
    def waiting(self) -> int:
        """Records that wait to be written."""
        return len(self._queue)

    @property
    def error(self) -> str:
        """Why the file cannot be written now; if it can, why a record was lost last; empty if neither."""
        return self._failing or self._loss

    def write(self, *flows: Flow) -> None:
        """Records those of the flows that were denied. Never waits for the disk, never raises for what a flow holds.

        Many at once cost a fraction of one by one: the writer is woken once.
        """
        lines = [line for flow in flows if record.is_deny(flow) and (line := self._line(flow))]
        if not lines:
            return
        with self._change:
            for line in lines:
                if self._closing:
                    self._lose(1, "the log is closed")
                elif self._queued_bytes + len(line) > self._queue_bytes:
                    self._lose(1, self._failing or "records came faster than the disk took them")
                else:
                    self._queue.append(line)
                    self._queued_bytes += len(line)
            self._change.notify_all()

    def _line(self, flow: Flow) -> bytes:
        """The flow's record, empty if it has none."""
        left_out = 0
        share = self._share(flow)
        if share is not None:
            kind = flow.verdict, flow.endpoint
            if not share.allows(str(flow.endpoint), time.monotonic()):
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                self._left_out_ever += 1
                return b""
            left_out = self._left_out.pop(kind, 0)
        try:
            return record.encode(record.from_flow(flow, self._node, left_out))
        except (ValueError, TypeError, OverflowError) as error:
            with self._change:
                self._lose(1, f"a record could not be encoded: {error}")
            return b""

    def _share(self, flow: Flow) -> RateLimit | None:
        """What of its kind an endpoint may have records of; None: of all."""
        if flow.verdict == Verdict.AUDIT:
            return self._audited
        return self._refused if flow.dns is not None and flow.verdict == Verdict.DROPPED else None

    def reopen(self) -> None:
        """Opens the file by its name again: after logrotate has moved it, or space or permission is back."""
        with self._change:
            self._reopen = True
            self._change.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until all that was recorded is in the file. False: it was not in time. Not for the data path."""
        with self._change:
            return self._change.wait_for(lambda: not self._queue and not self._busy and not self._reopen, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits, tries a broken disk once more, counts the rest as lost."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            # A bug. Nothing is written any more; the status must say so, and the traceback goes to the daemon's log.
            self._report(0, "the writer failed, see the daemon's log")
            raise

    def _work(self) -> None:
        failed = not self._attempt(deque())
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._wait(failed)
                if self._reopen:
                    self._reopen = False
                    self._file.close()
                self._busy = True
                closing = self._closing
                batch, self._queue = self._queue, deque()
            failed = not self._attempt(batch)
            with self._change:
                # What could not be written is older than what came meanwhile.
                batch.extend(self._queue)
                self._queue = batch
                self._queued_bytes = sum(map(len, batch))
                if closing and (failed or not batch):
                    break
        self._file.close()
        with self._change:
            if self._queue:
                self._lose(len(self._queue), self._failing)
            self._queue.clear()
            self._busy = False
            self._change.notify_all()

    def _wait(self, failed: bool) -> None:
        """Until there is something to do; after a failure, until it is time to try again."""
        if failed:
            self._change.wait_for(lambda: self._closing or self._reopen, self._retry_seconds)
        else:
            self._change.wait_for(lambda: self._queue or self._closing or self._reopen)

    def _attempt(self, batch: deque[bytes]) -> bool:
        """Writes the batch, leaving in it what could not be written. Whether all was."""
        before = len(batch)
        try:
            self._file.open()
            self._file.append(batch)
        except OSError as error:
            self._report(before - len(batch), f"{self.path}: {_reason(error)}")
            return False
        self._report(before, "")
        return True

    def _report(self, written: int, failing: str) -> None:
        with self._change:
            self._written += written
            before, self._failing = self._failing, failing
            lost = self._lost
        if failing and failing != before:
            _log.error("audit log cannot be written: %s", failing)
        elif before and not failing:
            _log.warning("audit log is written again; %d records were lost so far", lost)

    def _lose(self, records: int, reason: str) -> None:
        """With the lock held."""
        self._lost += records
        self._loss = reason


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the disk"
    return os.strerror(error.errno) if error.errno else str(error)
