# SPDX-License-Identifier: Apache-2.0
"""The workloads of this node: declared by file or by command, remembered over restarts, and where each one is now."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import msgspec

from l7agent import statefile, textfile
from l7agent.workload import Attachment
from l7policy import schemapath, yamltree
from l7policy.errors import PolicyErrors
from l7policy.ids import HOST_ENDPOINT, EndpointId
from l7policy.labels import LabelError, split, workload_label, workload_labels
from l7policy.model import Labels, NamedPort
from l7policy.scalars import is_port_name, port_number
from l7policy.verdict import Protocol

MAX_ENDPOINTS: Final = HOST_ENDPOINT - 1
MAX_PORTS: Final = 256
"""Named ports of one endpoint."""
_PROTOCOLS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}


class EndpointError(Exception):
    """The endpoint cannot be declared like this."""


class Conflict(EndpointError):
    """The name or the namespace is taken."""


class NoSuchEndpoint(EndpointError):
    """Nothing is known by this name or number."""


class Declared(msgspec.Struct, frozen=True):
    """What the operator said of one workload."""

    name: str
    netns: str
    labels: tuple[str, ...]
    """Canonical, sorted: ``k8s:app=web``. None: it is ``reserved:init`` until it gets some."""
    interface: str = ""
    source: str = "command"
    """``command``, or the file it was read from."""
    ports: tuple[NamedPort, ...] = ()
    """Ports that policies may call by name."""
    audit: bool | None = None
    """Whether what its policy denies passes and is recorded; None: as the node's configuration says."""
    cgroup: str = ""
    """Path of a cgroup, for processes of the node itself; then there is no `netns`."""

    @property
    def place(self) -> tuple[str, str, str]:
        """What two endpoints cannot share."""
        return self.netns, self.interface, self.cgroup


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload and its present state."""

    id: EndpointId
    declared: Declared
    attachment: Attachment | None = None
    """None while its namespace or interface does not exist."""
    message: str = ""
    """Why it is not ready."""
    audit: bool | None = None
    """What a later command said of `Declared.audit`, which it outlives."""

    def audited(self, by_default: bool) -> bool:
        """Whether what its policy denies passes: as a command said, else the declaration, else the configuration."""
        said = self.declared.audit if self.audit is None else self.audit
        return by_default if said is None else said

    @property
    def labels(self) -> Labels:
        """What policies select it by."""
        return frozenset(self.declared.labels)

    @property
    def state(self) -> str:
        """``ready``, ``waiting`` for its namespace, or ``error``."""
        if self.message:
            return "waiting" if self.attachment is None else "error"
        return "ready" if self.attachment is not None else "waiting"


class _Saved(msgspec.Struct):
    endpoints: dict[Annotated[int, msgspec.Meta(ge=1, le=MAX_ENDPOINTS)], Declared]
    audit: dict[int, bool] = {}


class _FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: dict[str, str] | list[str]
    netns: str = ""
    cgroup: str = ""
    name: str = ""
    interface: str = ""
    ports: list[str] = []
    audit: bool | None = None


def declare(
    netns: str,
    labels: list[str],
    name: str = "",
    interface: str = "",
    source: str = "command",
    *,
    cgroup: str = "",
    ports: list[str] | None = None,
    audit: bool | None = None,
) -> Declared:
    """Checks what was said and puts it in canonical form. Raises EndpointError."""
    if bool(netns) == bool(cgroup):
        raise EndpointError("an endpoint is either a network namespace (netns) or a cgroup")
    if cgroup:
        cgroup = _cgroup_path(cgroup)
        if interface:
            raise EndpointError("a cgroup has no interface of its own")
    elif not netns or "\0" in netns or ("/" in netns and not netns.startswith("/")):
        raise EndpointError(f"{netns!r} is neither the name of a network namespace nor an absolute path to one")
    try:
        canonical = workload_labels(labels)
    except LabelError as error:
        raise EndpointError(str(error)) from error
    chosen = name or (netns or cgroup).rsplit("/", 1)[-1]
    if not chosen.replace("-", "").replace(".", "").replace("_", "").replace("/", "").isalnum() or chosen.isdigit():
        raise EndpointError(
            f"{chosen!r} cannot name an endpoint: letters, digits, '-', '_', '.' and '/', not only digits"
        )
    found = tuple(sorted(canonical))
    return Declared(chosen, netns, found, interface, source, _named_ports(ports or []), audit, cgroup)


def _cgroup_path(text: str) -> str:
    """As /proc/PID/cgroup writes it."""
    path = PurePosixPath(text)
    if not text.startswith("/") or "\0" in text or ".." in path.parts or len(path.parts) < 2:
        raise EndpointError(
            f"{text!r} is not the path of a cgroup below the root of the hierarchy, like /system.slice/x.service"
        )
    return "/" + "/".join(path.parts[1:])


def _named_ports(texts: list[str]) -> tuple[NamedPort, ...]:
    found = tuple(dict.fromkeys(map(_named_port, texts)))
    for port in found:
        others = [other.port for other in found if (other.name, other.protocol) == (port.name, port.protocol)]
        if len(others) > 1:
            raise EndpointError(
                f"port {port.name} of {port.protocol.name} has two numbers, {others[0]} and {others[1]}"
            )
    if len(found) > MAX_PORTS:
        raise EndpointError(f"{len(found)} named ports are more than {MAX_PORTS}")
    return found


def _named_port(text: str) -> NamedPort:
    name, equals, rest = text.partition("=")
    number, slash, protocol = rest.partition("/")
    if not equals or (slash and protocol.upper() not in _PROTOCOLS):
        raise EndpointError(f"{text[:80]!r} names no port; write NAME=NUMBER/TCP, /UDP or /SCTP: http=8080/TCP")
    if not is_port_name(name):
        raise EndpointError(
            f"{name[:80]!r} cannot name a port: at most 15 letters, digits and single '-', one letter at least"
        )
    try:
        return NamedPort(name, _PROTOCOLS[protocol.upper() or "TCP"], port_number(number))
    except ValueError as error:
        raise EndpointError(f"port {text[:80]!r}: {error}") from error


def port_text(port: NamedPort) -> str:
    """``http=8080/TCP``."""
    return f"{port.name}={port.port}/{port.protocol.name}"


def relabelled(declared: Declared, add: list[str], delete: list[str]) -> Declared:
    """The same workload with other labels: those of `add`, in place of others of the same key, and none of `delete`.

    What is deleted is named by key, or as ``key=value``. Raises EndpointError.
    """
    if declared.source != "command":
        raise Conflict(f"{declared.name!r} is declared in {declared.source}: change its labels there, and send SIGHUP")
    kept = {split(label)[0]: label for label in declared.labels}
    try:
        for text in delete:
            label = workload_label(text)
            key = split(label)[0]
            if key not in kept or ("=" in text and kept[key] != label):
                raise EndpointError(f"{declared.name!r} has no label {text[:80]!r}")
            del kept[key]
        kept.update({split(label)[0]: label for label in map(workload_label, add)})
    except LabelError as error:
        raise EndpointError(str(error)) from error
    again = declare(declared.netns, sorted(kept.values()), declared.name, declared.interface, cgroup=declared.cgroup)
    return msgspec.structs.replace(declared, labels=again.labels)


def read_folder(folder: Path) -> tuple[Declared, ...]:
    """Every endpoint declared in ``*.yaml`` of the folder. Raises EndpointError naming file:line:column."""
    found: list[Declared] = []
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            nodes = yamltree.parse(str(path), textfile.read(path))
            for node in nodes:
                entries = (
                    schemapath.to_struct(node, list[_FileEntry])
                    if isinstance(node.value, list)
                    else [schemapath.to_struct(node, _FileEntry)]
                )
                for entry in entries:
                    labels = entry.labels
                    texts = [f"{k}={v}" for k, v in labels.items()] if isinstance(labels, dict) else labels
                    found.append(
                        declare(
                            entry.netns,
                            texts,
                            entry.name,
                            entry.interface,
                            str(path),
                            cgroup=entry.cgroup,
                            ports=entry.ports,
                            audit=entry.audit,
                        )
                    )
        except PolicyErrors as error:
            raise EndpointError(str(error)) from error
        except EndpointError as error:
            raise EndpointError(f"{path}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise EndpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    names = [declared.name for declared in found]
    for name in names:
        if names.count(name) > 1:
            raise EndpointError(f"{folder}: two endpoints are named {name!r}")
    return tuple(found)


class Endpoints:
    """The set of them. Only `l7agent.agent` changes it, one change at a time."""

    def __init__(self, path: Path) -> None:
        """Reads what an earlier agent saved at `path`. Raises StateError."""
        self._path = path
        saved = statefile.load(path, _Saved) or _Saved({})
        self._all = {
            EndpointId(n): Endpoint(EndpointId(n), declared, audit=saved.audit.get(n))
            for n, declared in saved.endpoints.items()
        }
        self._by_address: dict[str, Endpoint] = {}
        self.host: Endpoint | None = None
        """The node itself, while policies select it. Neither listed nor saved."""
        self._newest = max(self._all, default=0)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def find(self, key: str) -> Endpoint | None:
        """By id or name."""
        if key.isascii() and key.isdecimal():
            return self._all.get(EndpointId(int(key))) if len(key) <= len(str(MAX_ENDPOINTS)) else None
        return next((endpoint for endpoint in self._all.values() if endpoint.declared.name == key), None)

    def get(self, endpoint_id: int) -> Endpoint | None:
        """By id."""
        return self.host if endpoint_id == HOST_ENDPOINT else self._all.get(EndpointId(endpoint_id))

    def at(self, address: str) -> Endpoint | None:
        """By one of its addresses."""
        return self._by_address.get(address)

    def add(self, declared: Declared, same: Endpoint | None = None) -> Endpoint:
        """Numbers a new endpoint; if it is the `same` declared anew, it keeps its number and what commands said of it.

        Raises Conflict.
        """
        for other in self._all.values():
            if other.declared.name == declared.name:
                raise Conflict(f"an endpoint named {declared.name!r} exists already (id {other.id})")
            if other.declared.place == declared.place:
                kind = "cgroup" if declared.cgroup else "namespace"
                raise Conflict(
                    f"{kind} {(declared.netns or declared.cgroup)!r} is endpoint {other.declared.name!r} already"
                )
        if same is not None:
            number = same.id
        else:
            # Not at once the number of one that has just gone: others may still mean that one.
            self._newest = self._newest % MAX_ENDPOINTS + 1
            while self._newest in self._all:
                self._newest = self._newest % MAX_ENDPOINTS + 1
            number = EndpointId(self._newest)
        endpoint = Endpoint(number, declared, audit=None if same is None else same.audit)
        self._all[endpoint.id] = endpoint
        return endpoint

    def located(self, endpoint: Endpoint, attachment: Attachment | None, message: str = "") -> Endpoint:
        """Records where an endpoint is now. Returns its new value."""
        new = replace(endpoint, attachment=attachment, message=message)
        self._forget_addresses(endpoint)
        self._all[endpoint.id] = new
        if attachment is not None:
            self._by_address.update(dict.fromkeys(attachment.addresses, new))
        return new

    def put_back(self, endpoint: Endpoint) -> None:
        """Undoes `remove`, and what was changed since."""
        self._all[endpoint.id] = endpoint
        self.located(endpoint, endpoint.attachment, endpoint.message)

    def remove(self, endpoint: Endpoint) -> None:
        """Forgets it."""
        self._forget_addresses(endpoint)
        del self._all[endpoint.id]

    def _forget_addresses(self, endpoint: Endpoint) -> None:
        for address in [a for a, owner in self._by_address.items() if owner.id == endpoint.id]:
            del self._by_address[address]

    def save(self) -> None:
        """Writes the declarations to disk. Raises OSError."""
        audit = {int(e.id): e.audit for e in self._all.values() if e.audit is not None}
        statefile.save(self._path, _Saved({int(e.id): e.declared for e in self._all.values()}, audit))
