# SPDX-License-Identifier: Apache-2.0
"""The workloads of this node: declared by file or by command, remembered over restarts, and where each one is now."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import msgspec

from l7agent import statefile
from l7agent.workload import Attachment
from l7policy import yamltree
from l7policy.errors import PolicyErrors
from l7policy.ids import EndpointId
from l7policy.labels import LabelError, workload_labels
from l7policy.model import Labels

MAX_ENDPOINTS: Final = 65535


class EndpointError(Exception):
    """The endpoint cannot be declared like this."""


class Conflict(EndpointError):
    """The name or the namespace is taken."""


class Declared(msgspec.Struct, frozen=True):
    """What the operator said of one workload."""

    name: str
    netns: str
    labels: tuple[str, ...]
    """Canonical, sorted: ``k8s:app=web``."""
    interface: str = ""
    source: str = "command"
    """``command``, or the file it was read from."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload and its present state."""

    id: EndpointId
    declared: Declared
    attachment: Attachment | None = None
    """None while its namespace or interface does not exist."""
    message: str = ""
    """Why it is not ready."""

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


class _FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    netns: str
    labels: dict[str, str] | list[str]
    name: str = ""
    interface: str = ""


def declare(netns: str, labels: list[str], name: str = "", interface: str = "", source: str = "command") -> Declared:
    """Checks what was said and puts it in canonical form. Raises EndpointError."""
    if not netns or "\0" in netns or ("/" in netns and not netns.startswith("/")):
        raise EndpointError(f"{netns!r} is neither the name of a network namespace nor an absolute path to one")
    try:
        canonical = workload_labels(labels)
    except LabelError as error:
        raise EndpointError(str(error)) from error
    if not canonical:
        raise EndpointError("an endpoint needs at least one label; policies select it by its labels")
    chosen = name or netns.rsplit("/", 1)[-1]
    if not chosen.replace("-", "").replace(".", "").replace("_", "").replace("/", "").isalnum() or chosen.isdigit():
        raise EndpointError(
            f"{chosen!r} cannot name an endpoint: letters, digits, '-', '_', '.' and '/', not only digits"
        )
    return Declared(chosen, netns, tuple(sorted(canonical)), interface, source)


def read_folder(folder: Path) -> tuple[Declared, ...]:
    """Every endpoint declared in ``*.yaml`` of the folder. Raises EndpointError naming file:line:column."""
    found: list[Declared] = []
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            nodes = yamltree.parse(str(path), path.read_text("utf-8"))
            for node in nodes:
                entries = (
                    yamltree.to_struct(node, list[_FileEntry])
                    if isinstance(node.value, list)
                    else [yamltree.to_struct(node, _FileEntry)]
                )
                for entry in entries:
                    labels = entry.labels
                    texts = [f"{k}={v}" for k, v in labels.items()] if isinstance(labels, dict) else labels
                    found.append(declare(entry.netns, texts, entry.name, entry.interface, str(path)))
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
        self._all = {EndpointId(n): Endpoint(EndpointId(n), declared) for n, declared in saved.endpoints.items()}
        self._by_address: dict[str, Endpoint] = {}
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
        return self._all.get(EndpointId(endpoint_id))

    def at(self, address: str) -> Endpoint | None:
        """By one of its addresses."""
        return self._by_address.get(address)

    def add(self, declared: Declared, same: EndpointId | None = None) -> Endpoint:
        """Numbers a new endpoint, as before if it is the `same` with other labels. Raises Conflict."""
        for other in self._all.values():
            if other.declared.name == declared.name:
                raise Conflict(f"an endpoint named {declared.name!r} exists already (id {other.id})")
            if (other.declared.netns, other.declared.interface) == (declared.netns, declared.interface):
                raise Conflict(f"namespace {declared.netns!r} is endpoint {other.declared.name!r} already")
        number = same
        if number is None:
            # Not at once the number of one that has just gone: others may still mean that one.
            self._newest = self._newest % MAX_ENDPOINTS + 1
            while self._newest in self._all:
                self._newest = self._newest % MAX_ENDPOINTS + 1
            number = EndpointId(self._newest)
        endpoint = Endpoint(EndpointId(number), declared)
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
        """Undoes `remove`."""
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
        statefile.save(self._path, _Saved({int(e.id): e.declared for e in self._all.values()}))
