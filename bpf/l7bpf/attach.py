# SPDX-License-Identifier: Apache-2.0
"""Puts the pinned programs where packets pass, and replaces them there with no packet in between.

By pinned TCX links where the kernel has them (6.6), else by clsact filters with a fixed priority and handle. All of it
is idempotent: attaching again means replacing. Interfaces are those of the calling thread's network namespace. Failure
verdict: `DatapathError`; what was attached before stays attached. For detach, an interface that is gone is no error.

Our programs go first on a hook: another one before them could pass a packet that they have not judged.
"""

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from l7bpf import bpffs, libbpf
from l7bpf.cgroups import Cgroup
from l7bpf.errors import DatapathError
from l7bpf.hostflows import CgroupEndpoint
from l7bpf.linknames import STEER, LinkName, Owner, draft, drafted
from l7bpf.maps import CgroupEndpoints

Mode = Literal["auto", "tcx", "tc"]

_INGRESS, _EGRESS = libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS
_PARENTS = {_INGRESS: 0xFFFFFFF2, _EGRESS: 0xFFFFFFF3}
_CLSACT = 0xFFFF0000
_ETH_P_ALL = 3
_PRIORITY = 1
_HANDLE = 1
_GONE = {errno.ENODEV, errno.ENOENT, errno.ENOLINK, errno.EINVAL}

_Programs = tuple[tuple[str, int], ...]

_ENDPOINT = (("from_endpoint", _INGRESS), ("to_endpoint", _EGRESS))
_CGROUP = (
    ("cgroup_ingress", libbpf.BPF_CGROUP_INET_INGRESS),
    ("cgroup_egress", libbpf.BPF_CGROUP_INET_EGRESS),
)
_UPLINK = (("from_uplink", _INGRESS), ("to_uplink", _EGRESS))


class Attacher:
    """Attaches the programs pinned below `pins`."""

    def __init__(self, pins: Path, mode: Mode = "auto", older: Path | None = None) -> None:
        """`older` is the folder of another layout, whose links are taken over instead of making new ones."""
        self._pins = pins
        self._older = older / "links" if older is not None else None
        self._links = pins / "links"
        self._finish_drafts()
        self.mode: Literal["tcx", "tc"] = "tc" if mode == "tc" or (mode == "auto" and not has_tcx()) else "tcx"

    def attach_endpoint(self, ifindex: int, endpoint_id: int) -> None:
        """Both directions of the node's end of a workload's veth. Do it before the link is up."""
        self._attach(_ENDPOINT, ifindex, "endpoint", endpoint_id)

    def detach_endpoint(self, ifindex: int, endpoint_id: int) -> None:
        """Lets the interface pass everything again, if it is still there."""
        self._detach(_ENDPOINT, ifindex, "endpoint", endpoint_id)

    def detach_links(self, endpoint_id: int) -> None:
        """The same by the links alone, whichever interface they hold."""
        for name, _ in _ENDPOINT:
            self._remove_link(self._pin("endpoint", endpoint_id, name))

    def detach_filters(self, ifindex: int) -> None:
        """The same by the interface alone, whoever's it was."""
        for name, hook in _ENDPOINT:
            _remove_filter(ifindex, hook, name)

    def attach_uplink(self, ifindex: int) -> None:
        """Both directions of an interface to other machines."""
        self._attach(_UPLINK, ifindex, "uplink", ifindex)

    def detach_uplink(self, ifindex: int) -> None:
        self._detach(_UPLINK, ifindex, "uplink", ifindex)

    def attach_cgroup(self, cgroup: Cgroup, endpoint_id: int, table: CgroupEndpoints) -> None:
        """Both directions of all sockets of a cgroup. From the first link to the row, all they send is dropped."""
        try:
            folder = os.open(cgroup.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DatapathError(f"{cgroup.folder}: {error.strerror}") from error
        try:
            if os.fstat(folder).st_ino != cgroup.number:
                raise DatapathError(f"{cgroup.folder} is another cgroup by now")
            for name, hook in _CGROUP:
                pin = self._pin("cgroup", endpoint_id, name)
                with self._program(name) as program:
                    # Never an older layout's link: a program finds its row in the table that its link was made with.
                    if not self._replace(pin, program, cgroup.number & 0xFFFFFFFF):
                        self._create_link(pin, program, folder, hook, 0)
            table.update(CgroupEndpoint(cgroup.number, endpoint_id, cgroup.level))
        except OSError as error:
            raise DatapathError(
                f"the programs cannot be attached to cgroup {cgroup.folder}: {error.strerror}"
            ) from error
        finally:
            os.close(folder)

    def detach_cgroup(self, endpoint_id: int) -> None:
        """Lets the sockets of the endpoint's cgroup alone again, if it is still there."""
        for name, _ in _CGROUP:
            self._remove_link(self._pin("cgroup", endpoint_id, name))

    def attach_steer(self, netns_fd: int | None = None) -> None:
        """The socket lookup of a network namespace: the given one, or the calling thread's."""
        pin = self._links / STEER
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC) if netns_fd is None else -1
        target = own if netns_fd is None else netns_fd
        try:
            with self._program("steer") as program:
                if not self._update_link(pin, program, os.fstat(target).st_ino):
                    self._create_link(pin, program, target, libbpf.BPF_SK_LOOKUP, 0)
        except OSError as error:
            raise DatapathError(f"the socket lookup program cannot be attached: {error.strerror}") from error
        finally:
            if own >= 0:
                os.close(own)

    def detach_steer(self) -> None:
        self._remove_link(self._links / STEER)

    # What the kernel says is attached now, whatever was done before. Blocking. Raises DatapathError without programs.

    def on_endpoint(self, ifindex: int, endpoint_id: int) -> dict[str, bool]:
        """Whether each program of a workload's interface is there, and the one that is pinned."""
        return self._present(_ENDPOINT, ifindex, "endpoint", endpoint_id)

    def on_uplink(self, ifindex: int) -> dict[str, bool]:
        """The same of an uplink."""
        return self._present(_UPLINK, ifindex, "uplink", ifindex)

    def on_cgroup(self, cgroup: Cgroup, endpoint_id: int) -> dict[str, bool]:
        """The same of a cgroup."""
        target = cgroup.number & 0xFFFFFFFF
        return {name: self._linked(self._pin("cgroup", endpoint_id, name), name, target) for name, _ in _CGROUP}

    def on_sockets(self) -> dict[str, bool]:
        """The same of the socket lookup of the calling thread's network namespace."""
        own = Path("/proc/thread-self/ns/net").stat().st_ino
        return {"steer": self._linked(self._links / STEER, "steer", own)}

    def _present(self, programs: _Programs, ifindex: int, owner: Owner, number: int) -> dict[str, bool]:
        if self.mode == "tcx":
            pins = {program: self._pin(owner, number, program) for program, _ in programs}
            return {program: self._linked(pin, program, ifindex) for program, pin in pins.items()}
        try:
            with IPRoute() as netlink:
                return {program: program in _filters(netlink, ifindex, hook) for program, hook in programs}
        except NetlinkError as error:
            if error.code not in _GONE:
                raise
            return dict.fromkeys((program for program, _ in programs), False)

    def _linked(self, pin: Path, name: str, target: int) -> bool:
        with self._program(name) as program:
            wanted = libbpf.program_id(program)
        try:
            link = libbpf.obj_get(pin)
        except FileNotFoundError:
            return False
        try:
            info = libbpf.link_info(link)
        finally:
            os.close(link)
        return (info.target, info.program_id) == (target, wanted)

    def links(self) -> list[str]:
        """Names of the pinned links, see `l7bpf.linknames`."""
        return sorted(path.name for path in self._links.iterdir()) if self._links.is_dir() else []

    def endpoints(self, owner: Owner) -> set[int]:
        """Numbers of the endpoints (``uplink``: indexes of the interfaces) that links of this kind are pinned for."""
        names = (LinkName.read(name) for name in self.links())
        return {name.number for name in names if name is not None and name.owner == owner}

    def _pin(self, owner: Owner, number: int, program: str) -> Path:
        return self._links / str(LinkName.of(owner, number, program))

    def _finish_drafts(self) -> None:
        """A process that was killed between making a link and giving it its name: what it holds is attached, and
        newer than what has the name."""
        for name in self.links():
            if wanted := drafted(name):
                (self._links / name).rename(self._links / wanted)

    def _attach(self, programs: _Programs, ifindex: int, owner: Owner, number: int) -> None:
        for program_name, hook in programs:
            pin = self._pin(owner, number, program_name)
            try:
                with self._program(program_name) as program:
                    if self.mode == "tcx":
                        if not self._update_link(pin, program, ifindex):
                            self._create_link(pin, program, ifindex, hook, libbpf.BPF_F_BEFORE)
                            _remove_filter(ifindex, hook, program_name)  # of a time in the other mode
                    else:
                        _replace_filter(ifindex, hook, program_name, program)
                        self._remove_link(pin)
            except OSError as error:
                raise DatapathError(
                    f"{program_name} cannot be attached to interface {ifindex}: {error.strerror}"
                ) from error
            except NetlinkError as error:
                raise DatapathError(f"{program_name} cannot be attached to interface {ifindex}: {error}") from error

    def _detach(self, programs: _Programs, ifindex: int, owner: Owner, number: int) -> None:
        for program_name, hook in programs:
            self._remove_link(self._pin(owner, number, program_name))
            _remove_filter(ifindex, hook, program_name)

    def _program(self, name: str) -> AbstractContextManager[int]:
        return bpffs.opened(self._pins / "programs" / name, "; is the datapath loaded?")

    def _update_link(self, pin: Path, program: int, target: int) -> bool:
        """Replaces the program of the pinned link; False if there is none, or it no longer holds `target`."""
        if self._older is not None and not pin.exists():
            return self._replace(self._older / pin.name, program, target, pin)
        return self._replace(pin, program, target)

    def _replace(self, pin: Path, program: int, target: int, also: Path | None = None) -> bool:
        """`also`: another name to give to the link. The first one goes with its folder."""
        try:
            link = libbpf.obj_get(pin)
        except FileNotFoundError:
            return False
        try:
            if libbpf.link_info(link).target != target:
                return False
            libbpf.link_update(link, program)
            if also is not None:
                self._links.mkdir(parents=True, exist_ok=True, mode=0o700)
                libbpf.obj_pin(link, also)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        else:
            return True
        finally:
            os.close(link)

    def _create_link(self, pin: Path, program: int, target: int, attach_type: int, flags: int) -> None:
        """Attaches, and pins under a name of its own first, so that no moment is without one of the two."""
        link = libbpf.link_create(program, target, attach_type, flags)
        try:
            self._links.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = pin.with_name(draft(pin.name, os.getpid()))
            temporary.unlink(missing_ok=True)
            libbpf.obj_pin(link, temporary)
            temporary.rename(pin)
        finally:
            os.close(link)

    def _remove_link(self, pin: Path) -> None:
        try:
            link = libbpf.obj_get(pin)
        except FileNotFoundError:
            return
        try:
            libbpf.link_detach(link)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        finally:
            os.close(link)
            pin.unlink(missing_ok=True)


def has_tcx() -> bool:
    """Whether the kernel has TCX links: a bad program is refused with EBADF, an unknown attach type with EINVAL."""
    try:
        os.close(libbpf.link_create(-1, 1, _INGRESS))
    except OSError as error:
        return error.errno == errno.EBADF
    return True


def _replace_filter(ifindex: int, hook: int, name: str, program: int) -> None:
    with IPRoute() as netlink:
        try:
            netlink.tc("add", "clsact", ifindex)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
        netlink.tc(
            "replace-filter",
            "bpf",
            index=ifindex,
            handle=_HANDLE,
            parent=_PARENTS[hook],
            prio=_PRIORITY,
            protocol=_ETH_P_ALL,
            fd=program,
            name=name,
            direct_action=True,
        )


def _filters(netlink: IPRoute, ifindex: int, hook: int) -> list[str]:
    """Names of the BPF filters on a hook, empty for a filter of another kind."""
    found = []
    for message in netlink.get_filters(index=ifindex, parent=_PARENTS[hook]):
        if message.get("handle"):
            options = message.get_attr("TCA_OPTIONS")
            found.append(str(options.get_attr("TCA_BPF_NAME") or "") if options is not None else "")
    return found


def _remove_filter(ifindex: int, hook: int, name: str) -> None:
    """Removes our filter if it is there, and the clsact qdisc when nothing else uses it."""
    with IPRoute() as netlink:
        try:
            if name not in _filters(netlink, ifindex, hook):
                return
            netlink.tc(
                "del-filter",
                "bpf",
                index=ifindex,
                handle=_HANDLE,
                parent=_PARENTS[hook],
                prio=_PRIORITY,
                protocol=_ETH_P_ALL,
            )
            if not any(_filters(netlink, ifindex, other) for other in _PARENTS):
                netlink.tc("del", "clsact", ifindex)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise
