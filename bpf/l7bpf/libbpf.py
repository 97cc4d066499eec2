# SPDX-License-Identifier: Apache-2.0
"""The few calls of libbpf.so.1 that we need, typed.

The only module that knows ctypes and file descriptors of BPF objects as numbers. Every failure is an `OSError` with the
kernel's errno; nothing is retried or interpreted here. The library is opened at the first call, so that a machine
without it gets a preflight line and not a traceback.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "libbpf.so.1"

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_F_BEFORE = 1 << 3
BPF_CGROUP_INET_INGRESS = 0
BPF_CGROUP_INET_EGRESS = 1
BPF_TCX_INGRESS = 46
BPF_TCX_EGRESS = 47
BPF_SK_LOOKUP = 36

INSTRUCTION_BYTES = 8
LICENSE = b"Dual BSD/GPL"
"""Of the programs, as the kernel knows it: some helpers are for GPL programs only."""
_VERIFIER_LOG_BYTES = 1 << 24

_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _MapCreateOpts(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("btf", ctypes.c_uint32 * 5), ("flags", ctypes.c_uint32))


class _ProgramLoadOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


class _LinkCreateOpts(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("pad", ctypes.c_uint32))


class _TestRunOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class _LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info; `target` is tcx.ifindex, netns.netns_ino or half of cgroup.cgroup_id."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("target", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 40),
    )


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a link. `target` is an interface's index, a network namespace's inode, or the lower half
    of a cgroup's number; 0: gone."""

    type: int
    program_id: int
    target: int
    attach_type: int


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What one run of a program gave back."""

    value: int
    context: bytes
    nanoseconds: int


class ProgramRefused(OSError):
    """The kernel does not take a program."""

    def __init__(self, number: int | None, text: str | None, name: str, log: str) -> None:
        super().__init__(number, text, name)
        self.log = log
        """What the verifier said, line by line."""


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    library.libbpf_set_print(None)  # its messages would go to standard error; errno says enough
    number, pointer = ctypes.c_int, ctypes.c_void_p
    for name, arguments in {
        "bpf_obj_get": (ctypes.c_char_p,),
        "bpf_obj_pin": (number, ctypes.c_char_p),
        "bpf_obj_get_info_by_fd": (number, pointer, ctypes.POINTER(ctypes.c_uint32)),
        "bpf_map_create": (
            ctypes.c_uint32,
            ctypes.c_char_p,
            *(ctypes.c_uint32,) * 3,
            ctypes.POINTER(_MapCreateOpts),
        ),
        "bpf_prog_load": (
            ctypes.c_uint32,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.POINTER(_ProgramLoadOpts),
        ),
        "bpf_map_lookup_elem": (number, pointer, pointer),
        "bpf_map_update_elem": (number, pointer, pointer, ctypes.c_uint64),
        "bpf_map_delete_elem": (number, pointer),
        "bpf_map_lookup_and_delete_elem": (number, pointer, pointer),
        "bpf_map_get_next_key": (number, pointer, pointer),
        "bpf_map_lookup_batch": (number, pointer, pointer, pointer, pointer, ctypes.POINTER(ctypes.c_uint32), pointer),
        "bpf_link_create": (number, number, number, ctypes.POINTER(_LinkCreateOpts)),
        "bpf_link_update": (number, number, pointer),
        "bpf_link_detach": (number,),
        "bpf_prog_test_run_opts": (number, ctypes.POINTER(_TestRunOpts)),
        "libbpf_num_possible_cpus": (),
        "libbpf_probe_bpf_prog_type": (number, pointer),
        "libbpf_probe_bpf_map_type": (number, pointer),
        "ring_buffer__epoll_fd": (pointer,),
        "ring_buffer__consume": (pointer,),
        "ring_buffer__add": (pointer, number, _SAMPLE, pointer),
    }.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = number
    library.ring_buffer__new.argtypes = (number, _SAMPLE, pointer, pointer)
    library.ring_buffer__new.restype = pointer
    library.ring_buffer__free.argtypes = (pointer,)
    library.ring_buffer__free.restype = None
    return library


def available() -> bool:
    """Whether the library is there."""
    try:
        _library()
    except OSError:
        return False
    return True


def _checked(result: int, subject: str = "") -> int:
    if result < 0:
        # libbpf 1.x returns -errno; a few wrappers return -1 and set errno.
        number = -result if result != -1 else ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number), subject or None)
    return result


def obj_get(path: Path) -> int:
    """A new descriptor of the object pinned at `path`."""
    return _checked(_library().bpf_obj_get(os.fsencode(path)), str(path))


def obj_pin(fd: int, path: Path) -> None:
    """Gives the object a name that keeps it alive."""
    _checked(_library().bpf_obj_pin(fd, os.fsencode(path)), str(path))


def map_create(name: str, info: MapInfo) -> int:
    """A new map of this shape. The kernel keeps the first 15 characters of its name."""
    options = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), flags=info.flags)
    sizes = (info.key_size, info.value_size, info.max_entries)
    return _checked(_library().bpf_map_create(info.type, name.encode()[:15], *sizes, ctypes.byref(options)), name)


def program_load(name: str, kind: int, attach_type: int, instructions: bytes) -> int:
    """A new program. Raises `ProgramRefused`."""
    options = _ProgramLoadOpts(sz=ctypes.sizeof(_ProgramLoadOpts), expected_attach_type=attach_type)
    what = (kind, name.encode()[:15], LICENSE, instructions, len(instructions) // INSTRUCTION_BYTES)
    try:
        return _checked(_library().bpf_prog_load(*what, ctypes.byref(options)), name)
    except OSError as error:
        # The verifier is asked for its reasons only now: writing them down takes longer than its work.
        log = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
        options.log_level, options.log_size, options.log_buf = 1, len(log), ctypes.addressof(log)
        fd = _library().bpf_prog_load(*what, ctypes.byref(options))
        if fd >= 0:
            return int(fd)
        raise ProgramRefused(error.errno, error.strerror, name, log.value.decode(errors="replace")) from error


def map_info(fd: int) -> MapInfo:
    """Shape of a map."""
    info = _MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _checked(_library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)))
    return MapInfo(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)


def link_info(fd: int) -> LinkInfo:
    """What a link connects. Numbers beyond those of the kernel's answer are 0."""
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _checked(_library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)))
    return LinkInfo(info.type, info.prog_id, info.target, info.attach_type)


def program_id(fd: int) -> int:
    """The kernel's number of a program: `bpf_prog_info` begins with its type and id."""
    info = (ctypes.c_uint32 * 64)()
    size = ctypes.c_uint32(8)
    _checked(_library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)))
    return int(info[1])


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of `key`, or None."""
    # Costs half of what create_string_buffer does; a proxied connection takes four lookups.
    value = (ctypes.c_char * value_size)()
    result = _library().bpf_map_lookup_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    _checked(result)
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Writes one entry."""
    _checked(_library().bpf_map_update_elem(fd, key, value, flags))


def delete(fd: int, key: bytes) -> bool:
    """Removes one entry; False if there was none."""
    result = _library().bpf_map_delete_elem(fd, key)
    if result == -errno.ENOENT:
        return False
    _checked(result)
    return True


def take(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Removes one entry of a hash and returns its last value; None if there was none."""
    value = ctypes.create_string_buffer(value_size)
    result = _library().bpf_map_lookup_and_delete_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    _checked(result)
    return value.raw


def next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """The key after `key` (None: the first), or None at the end."""
    following = ctypes.create_string_buffer(key_size)
    result = _library().bpf_map_get_next_key(fd, key, following)
    if result == -errno.ENOENT:
        return None
    _checked(result)
    return following.raw


def lookup_batch(
    fd: int, position: bytes | None, key_size: int, value_size: int, limit: int
) -> tuple[bytes | None, bytes, bytes]:
    """Up to `limit` entries from `position` (None: the start) and the next position (None: that was all).

    Keys behind each other, then their values. Raises ENOSPC when one bucket of a hash has more than `limit` entries.
    """
    # A hash wants 4 bytes for its position, others a whole key.
    following = ctypes.create_string_buffer(max(key_size, 4))
    keys = ctypes.create_string_buffer(key_size * limit)
    values = ctypes.create_string_buffer(value_size * limit)
    count = ctypes.c_uint32(limit)
    result = _library().bpf_map_lookup_batch(fd, position, following, keys, values, ctypes.byref(count), None)
    if result != -errno.ENOENT:
        _checked(result)
    found = count.value
    more = None if result == -errno.ENOENT else following.raw
    return more, keys.raw[: found * key_size], values.raw[: found * value_size]


def link_create(program: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program to an interface's index, or to a namespace's or cgroup's descriptor."""
    options = _LinkCreateOpts(sz=ctypes.sizeof(_LinkCreateOpts), flags=flags)
    return _checked(_library().bpf_link_create(program, target, attach_type, ctypes.byref(options)))


def link_update(link: int, program: int) -> None:
    """Replaces a link's program, with no packet in between."""
    _checked(_library().bpf_link_update(link, program, None))


def link_detach(link: int) -> None:
    """Ends what a link does, whoever else holds it."""
    _checked(_library().bpf_link_detach(link))


def run_program(program: int, data: bytes | None, context: bytes, repeat: int = 1) -> ProgramRun:
    """Runs a program on one packet and context, without a network."""
    context_out = ctypes.create_string_buffer(len(context))
    data_in = ctypes.create_string_buffer(data, len(data)) if data is not None else None
    data_out = ctypes.create_string_buffer(len(data) + 256) if data is not None else None
    context_in = ctypes.create_string_buffer(context, len(context))
    options = _TestRunOpts(
        sz=ctypes.sizeof(_TestRunOpts),
        data_in=ctypes.addressof(data_in) if data_in is not None else None,
        data_out=ctypes.addressof(data_out) if data_out is not None else None,
        data_size_in=len(data) if data is not None else 0,
        data_size_out=len(data) + 256 if data is not None else 0,
        ctx_in=ctypes.addressof(context_in),
        ctx_out=ctypes.addressof(context_out),
        ctx_size_in=len(context),
        ctx_size_out=len(context),
        repeat=repeat,
    )
    _checked(_library().bpf_prog_test_run_opts(program, ctypes.byref(options)))
    return ProgramRun(options.retval, context_out.raw, options.duration)


def possible_cpus() -> int:
    """How many values a per-processor map has for each key."""
    return _checked(_library().libbpf_num_possible_cpus())


def has_program_type(number: int) -> bool:
    """Whether the kernel loads programs of this type."""
    return bool(_library().libbpf_probe_bpf_prog_type(number, None) > 0)


def has_map_type(number: int) -> bool:
    """Whether the kernel makes maps of this type."""
    return bool(_library().libbpf_probe_bpf_map_type(number, None) > 0)


class RingBuffer:
    """The reading end of ring buffer maps. Each is read to its end before the next."""

    def __init__(self, map_fd: int, *more: int) -> None:
        self._samples: list[bytes] = []
        self._limit = 0
        self._callback: Callable[[Any, int, int], int] = _SAMPLE(self._take)
        handle = _library().ring_buffer__new(map_fd, self._callback, None, None)
        if not handle:
            number = ctypes.get_errno() or errno.EINVAL
            raise OSError(number, os.strerror(number))
        self._handle: int | None = handle
        for fd in more:
            try:
                _checked(_library().ring_buffer__add(handle, fd, self._callback, None))
            except OSError:
                self.close()
                raise

    def _take(self, _context: object, data: int, size: int) -> int:
        self._samples.append(ctypes.string_at(data, size))
        return -errno.ECANCELED if len(self._samples) >= self._limit else 0

    def fileno(self) -> int:
        """Readable when there is something to consume."""
        return _checked(_library().ring_buffer__epoll_fd(self._handle))

    def consume(self, limit: int) -> list[bytes]:
        """Up to `limit` records; never waits."""
        self._limit = limit
        result = _library().ring_buffer__consume(self._handle)
        if result != -errno.ECANCELED:
            _checked(result)
        taken, self._samples = self._samples, []
        return taken

    def close(self) -> None:
        """Lets the buffer go."""
        if self._handle:
            _library().ring_buffer__free(self._handle)
            self._handle = None
