# SPDX-License-Identifier: Apache-2.0
"""FlowFilter: which flows somebody wants to see. Values of one field are alternatives, fields must all fit.

An end of a flow is named by the workload's name, its number, or its address. Lost events are no flows and pass always.
"""

from dataclasses import dataclass

from l7observe.flow import Flow, FlowPeer, FlowType


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Empty fields want everything."""

    types: frozenset[FlowType] = frozenset()
    sources: frozenset[str] = frozenset()
    destinations: frozenset[str] = frozenset()
    related: frozenset[str] = frozenset()
    """Either end."""

    def accepts(self, flow: Flow) -> bool:
        """Whether the flow is wanted."""
        return (
            (not self.types or flow.type in self.types)
            and (not self.sources or _is(flow.source, self.sources))
            and (not self.destinations or _is(flow.destination, self.destinations))
            and (not self.related or _is(flow.source, self.related) or _is(flow.destination, self.related))
        )

    @property
    def wanted(self) -> frozenset[FlowType]:
        """The types that may be accepted."""
        return self.types or frozenset(FlowType)


def _is(peer: FlowPeer, wanted: frozenset[str]) -> bool:
    if peer.name in wanted or peer.address in wanted:
        return True
    return bool(peer.endpoint) and str(peer.endpoint) in wanted
