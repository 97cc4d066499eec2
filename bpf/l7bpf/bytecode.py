# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes of the datapath: instructions that name the tables they use, and the tables' shapes.

Nothing in it belongs to one node or folder of pins, so it can be kept and loaded again (`l7bpf.compiler`).
"""

import struct
from collections.abc import Mapping

import msgspec

from l7bpf.libbpf import INSTRUCTION_BYTES, MapInfo

_LOAD_MAP = struct.Struct("=BBhi")
"""One instruction (struct bpf_insn): the code, both registers, an offset and what is loaded: here a descriptor."""


class Program(msgspec.Struct, frozen=True):
    """One program."""

    instructions: bytes
    maps: dict[str, tuple[int, ...]]
    """Which instructions, from 0, load the address of which table."""

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """The instructions, with the tables' descriptors in place."""
        linked = bytearray(self.instructions)
        for name, places in self.maps.items():
            for place in places:
                code, registers, offset, _ = _LOAD_MAP.unpack_from(linked, place * INSTRUCTION_BYTES)
                _LOAD_MAP.pack_into(linked, place * INSTRUCTION_BYTES, code, registers, offset, descriptors[name])
        return bytes(linked)


class Bytecode(msgspec.Struct, frozen=True):
    """The whole datapath."""

    maps: dict[str, MapInfo]
    programs: dict[str, Program]
