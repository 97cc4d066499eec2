# SPDX-License-Identifier: Apache-2.0
"""What this machine has of what the datapath needs, as rows to show.

Looks and touches nothing that stays. A check never raises: whatever prevents it is its answer.
"""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from l7bpf import attach, bpffs, libbpf
from l7bpf.compiler import SYSTEM_PYTHON

OLDEST_KERNEL = (5, 15)

_PROGRAM_TYPES = {"sched_cls": 3, "sk_lookup": 30}
_MAP_TYPES = {"lru_hash": 9, "lpm_trie": 11, "sockhash": 18, "ringbuf": 27}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for."""

    name: str
    ok: bool
    found: str
    needed: str
    remedy: str
    """What to do, in one line. Empty if all is well."""
    required: bool = True


def checks(pins: Path, python: Path = SYSTEM_PYTHON) -> list[Check]:
    """All of them, the ones that explain others first. `pins` is where the datapath is to be pinned."""
    rows = [_root(), _kernel(platform.release()), _libbpf()]
    if os.geteuid() == 0 and libbpf.available():
        rows += [
            _feature(f"program type {name}", libbpf.has_program_type(number)) for name, number in _PROGRAM_TYPES.items()
        ]
        rows += [_feature(f"map type {name}", libbpf.has_map_type(number)) for name, number in _MAP_TYPES.items()]
        rows.append(_tcx())
    mountinfo = Path("/proc/self/mountinfo").read_text()
    filesystems = Path("/proc/filesystems").read_text()
    rows += [_bpffs(pins, mountinfo, filesystems), _cgroup2(mountinfo), _bcc(python), _headers()]
    return rows


def _root() -> Check:
    uid = os.geteuid()
    return Check("root", uid == 0, f"uid {uid}", "uid 0", "" if uid == 0 else "run it as root (sudo)")


def _kernel(release: str) -> Check:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    ok = numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_KERNEL
    needed = ".".join(map(str, OLDEST_KERNEL))
    return Check("kernel", ok, release, f"{needed} or newer", "" if ok else "upgrade the kernel and reboot")


def _libbpf() -> Check:
    ok = libbpf.available()
    found = libbpf.LIBRARY if ok else "missing"
    return Check("libbpf", ok, found, libbpf.LIBRARY, "" if ok else "apt-get install libbpf1")


def _feature(name: str, ok: bool) -> Check:
    remedy = "" if ok else "use a kernel built with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_BPF_STREAM_PARSER"
    return Check(name, ok, "yes" if ok else "no", "yes", remedy)


def _tcx() -> Check:
    ok = attach.has_tcx()
    found = "yes" if ok else "no: clsact filters are used"
    return Check("tcx links", ok, found, "yes (kernel 6.6)", "" if ok else "nothing to do", required=False)


def _bpffs(pins: Path, mountinfo: str, filesystems: str) -> Check:
    mounted = bpffs.kind_at(pins, mountinfo) == "bpf"
    ok = mounted or "\tbpf\n" in filesystems
    found = f"mounted at {pins}" if mounted else ("not mounted: l7d mounts it" if ok else "unknown to the kernel")
    return Check("bpf file system", ok, found, "mounted or mountable", "" if ok else "mount -t bpf bpf /sys/fs/bpf")


def _cgroup2(mountinfo: str) -> Check:
    mounted = [str(mount.point) for mount in bpffs.mounts(mountinfo) if mount.kind == "cgroup2"]
    remedy = "" if mounted else "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"
    return Check("cgroup v2", bool(mounted), ", ".join(mounted) or "not mounted", "mounted somewhere", remedy)


def _bcc(python: Path) -> Check:
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", "import bcc; print(getattr(bcc, '__version__', 'present'))"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("bcc", False, str(error), f"in {python}", "apt-get install python3-bpfcc")
    ok = done.returncode == 0
    found = done.stdout.strip() if ok else "missing"
    return Check("bcc", ok, found, f"in {python}", "" if ok else "apt-get install python3-bpfcc")


def _headers() -> Check:
    ok = Path("/usr/include/linux/bpf.h").is_file() and Path("/usr/include/linux/pkt_cls.h").is_file()
    found = "yes" if ok else "missing"
    return Check(
        "user headers of the kernel", ok, found, "linux-libc-dev", "" if ok else "apt-get install linux-libc-dev"
    )
