# SPDX-License-Identifier: Apache-2.0
"""What the proxy needs of policy, and nothing more: the seam between the two.

`l7policy.enforcement.Enforcement` is the judge. It is asked for every request and follows a new revision by itself, so
a reload reaches a connection that is kept alive with its next request. The proxy never caches what it answers.
"""

from collections.abc import Iterable
from typing import Protocol

from l7policy.headers import Edit
from l7policy.verdict import Direction, Reason
from l7policy.verdict import Protocol as IpProtocol


class Side(Protocol):
    """One end of a connection, as policy knows it."""

    @property
    def endpoint(self) -> int:
        """0 if it is no workload of this node."""
        ...

    @property
    def identity(self) -> int: ...

    @property
    def labels(self) -> frozenset[str]: ...


class Decision(Protocol):
    """What was decided about one request."""

    @property
    def allowed(self) -> bool: ...

    @property
    def audited(self) -> bool:
        """It is allowed only because the endpoint is audited; `reason` is why it would be refused."""
        ...

    @property
    def reason(self) -> Reason: ...

    @property
    def rule(self) -> str:
        """The rule that decided, empty for a default deny."""
        ...

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies that selected the endpoint."""
        ...

    @property
    def direction(self) -> Direction: ...

    @property
    def endpoint(self) -> int:
        """The workload whose policy decided."""
        ...

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What is to be changed in the head before it goes on."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """Headers that were not as the rules want them, for the record."""
        ...

    @property
    def rejected(self) -> tuple[str, ...]:
        """Headers that the edits take out, for the record."""
        ...


class FlowPolicy(Protocol):
    """The policy of one connection."""

    @property
    def source(self) -> Side: ...

    @property
    def destination(self) -> Side: ...

    @property
    def revision(self) -> int: ...

    @property
    def upstream_address(self) -> str:
        """From which address the server is called."""
        ...

    def admitted(self) -> Decision:
        """Whether the connection as such may go on, and the rule that brought it here."""
        ...

    def tls_required(self) -> bool:
        """Whether the connection must be TLS."""
        ...

    def tls(self, name: str) -> Decision:
        """Judges a TLS connection by the server name that it asks for; "" if there is none, or no TLS."""
        ...

    def http(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Decision:
        """Judges one request, as bytes that will be sent. `path` includes the query, `host` the port."""
        ...


class Judge(Protocol):
    """Gives each connection its policy."""

    def flow(
        self, client: str, destination: str, protocol: IpProtocol, port: int, client_port: int = 0
    ) -> FlowPolicy | None:
        """The policy of a connection, or None if neither end is a workload of this node."""
        ...
