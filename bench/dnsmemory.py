# SPDX-License-Identifier: Apache-2.0
"""A simulated hour of the name cache: 10,000 names that stay, asked 200 times a second, and 10,000 that come and go.

The real learner with its journal and with all that `l7d dns` loads; the kernel's tables are dictionaries, and the clock
runs ahead. Prints one JSON object: memory before, after half an hour, and at the end.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

from machine import rss_mb

import l7agent.dns_process  # noqa: F401 - for its size
from l7dns.kerneltables import MemoryTables
from l7dns.learner import Learner
from l7dns.namecache import Fact
from l7dns.view import Trust
from l7policy.ids import WORLD, Revision
from l7policy.model import FqdnPeer, Snapshot

HOUR = 3600
BASE_NAMES = NEW_NAMES = 10_000
PER_SECOND = 200
ADDRESSES = 4
SERVER = "192.0.2.12"


def main() -> None:
    """The hour."""
    chance = random.Random(1)
    tables = MemoryTables()
    everything = FqdnPeer(match_pattern="**.example.com.")
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(tables, Path(folder), trust=Trust(node_wide=True))
        learner.restore(0.0)
        learner.prepare(Snapshot(Revision(1), {}, {WORLD: ("reserved:world",)}, {}, (everything,)), 0.0)
        learner.commit(1, 0.0)
        found = {"rss_empty_mb": round(rss_mb(), 1)}
        asked = 0
        for second in range(HOUR):
            for _ in range(PER_SECOND):
                asked += 1
                new = asked % (HOUR * PER_SECOND // NEW_NAMES) == 0
                number = asked if new else chance.randrange(BASE_NAMES)
                name = f"{'new' if new else 'base'}-{number}.bench.example.com."
                addresses = [bytes((198, 51, 100, chance.randrange(1, 255))) for _ in range(ADDRESSES)]
                problem = learner.learn(Fact(name, SERVER, 53), addresses, HOUR if new else 5, second + 0.5, 7)
                assert not problem
            learner.expire(float(second))
            if second % 5 == 0:  # as the process asks which addresses connections lead to
                kept = learner.kept()
                learner.release(kept, learner.clients(kept), float(second))
            if second == HOUR // 2:
                found["rss_half_hour_mb"] = round(rss_mb(), 1)
        found["rss_mb"] = round(rss_mb(), 1)
        print(f"{len(learner)} pairs held, evicted {learner.evicted}", file=sys.stderr)
        learner.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
