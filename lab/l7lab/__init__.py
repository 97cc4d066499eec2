# SPDX-License-Identifier: Apache-2.0
"""A disposable network with real servers in it, for the demo, the tests and the benches. Start reading at `lab.py`."""

from l7lab.lab import Lab, Terminated
from l7lab.namespace import LabError, LabUnavailableError, Namespace
from l7lab.registry import sweep
from l7lab.topology import Host, Workload

__all__ = ["Host", "Lab", "LabError", "LabUnavailableError", "Namespace", "Terminated", "Workload", "sweep"]
