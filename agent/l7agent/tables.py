# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables as `l7policy.enforcement` wants to read them.

The proxies resolve a flow from the very maps the datapath judged it by, so the two cannot disagree (docs/adr/0003).
"""

from l7bpf.flows import ConntrackKey
from l7bpf.maps import Maps
from l7policy.enforcement import EndpointRow
from l7policy.ids import WORLD, EndpointId, IdentityId, PolicyId


class KernelTables:
    """Read-only view over the pinned maps."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def revision(self) -> int:
        """The revision in force, read from shared memory."""
        return self._maps.config.revision

    def endpoint(self, address: str) -> EndpointRow | None:
        """The workload of this node that owns the address."""
        endpoint_id = self._maps.endpoint_by_address.get(address)
        if endpoint_id is None:
            return None
        return self._row(endpoint_id)

    def process(self, client: str, client_port: int, destination: str, port: int, protocol: int) -> EndpointRow | None:
        """The workload whose process began a flow, as its program recorded it with the flow's first packet."""
        flow = self._maps.host_flows.get(ConntrackKey(client, destination, client_port, port, protocol))
        return None if flow is None or not flow.began.endpoint_id else self._row(flow.began.endpoint_id)

    def _row(self, endpoint_id: int) -> EndpointRow | None:
        row = self._maps.endpoints.get(endpoint_id)
        if row is None:
            return None
        return EndpointRow(EndpointId(endpoint_id), PolicyId(row.policy_id), IdentityId(row.identity), row.flags)

    def identity(self, address: str, established: bool) -> int:
        """Identity of an address, WORLD if nothing is known of it."""
        entry = self._maps.ipcache.get(address)
        if entry is None:
            return WORLD
        return (established and entry.established) or entry.identity

    def fqdn_labels(self, identity: int) -> tuple[int, tuple[int, ...]] | None:
        """Base identity and selector hashes of an FQDN identity."""
        row = self._maps.fqdn_identities.get(identity)
        return None if row is None else (row.base_identity, row.selectors)
