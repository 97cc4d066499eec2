# SPDX-License-Identifier: Apache-2.0
"""Compiles the datapath and exits: LLVM's 100 MB leave with it.

Run by the system's interpreter, which has bcc, with the standard library only: it may import nothing of this project.
A job comes as JSON on standard input, the result (`l7bpf.bytecode`) goes as JSON to standard output. While it compiles,
bcc makes the tables that the sources declare; they leave with this process too.
"""

import base64
import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

INSTRUCTION = struct.Struct("=BBhi")
LOAD_64_BITS = 0x18
MAP_DESCRIPTOR = 1
"""BPF_PSEUDO_MAP_FD, in the upper half of the byte of registers."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The bytecode of the job's programs, or the error."""
    os.environ["BCC_KERNEL_SOURCE"] = job["kernel_source"]
    from bcc import BPF, lib  # noqa: PLC0415 - reads its environment when imported

    try:
        bpf = BPF(text=job["source"], cflags=job["cflags"])
    except Exception as error:  # noqa: BLE001 - bcc raises plain Exception; whatever it is goes to the parent
        return {"error": str(error)}
    lib.bpf_table_name.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    lib.bpf_table_name.restype = ctypes.c_char_p
    tables = {
        lib.bpf_table_fd_id(bpf.module, number): lib.bpf_table_name(bpf.module, number).decode()
        for number in range(lib.bpf_num_tables(bpf.module))
    }
    programs = {}
    for name in job["programs"]:
        instructions = bpf.dump_func(name)
        maps: dict[str, list[int]] = {}
        for place, descriptor in map_loads(instructions):
            maps.setdefault(tables[descriptor], []).append(place)
        programs[name] = {"instructions": base64.b64encode(instructions).decode(), "maps": maps}
    return {"maps": {name: shape(lib, fd) for fd, name in tables.items()}, "programs": programs}


def map_loads(instructions: bytes) -> Iterator[tuple[int, int]]:
    """Place and descriptor of each instruction that loads a table's address."""
    for place, (code, registers, _, value) in enumerate(INSTRUCTION.iter_unpack(instructions)):
        if code == LOAD_64_BITS and registers >> 4 == MAP_DESCRIPTOR:
            yield place, value


def shape(lib: Any, fd: int) -> dict[str, int]:
    """The head of the table's struct bpf_map_info."""
    info = (ctypes.c_uint32 * 6)()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    if lib.bpf_obj_get_info(fd, ctypes.byref(info), ctypes.byref(size)) < 0:
        raise OSError(f"table {fd}: no information")
    kind, _, key_size, value_size, entries, flags = info
    return {"type": kind, "key_size": key_size, "value_size": value_size, "max_entries": entries, "flags": flags}


if __name__ == "__main__":
    result = run(json.load(sys.stdin))
    json.dump(result, sys.stdout)
    sys.exit(1 if "error" in result else 0)
