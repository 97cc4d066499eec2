# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from l7bpf import bpffs

NAMES = st.text(alphabet="abé -\\\t\n", min_size=1, max_size=8).filter(lambda name: name.strip())


def escaped(path: str) -> str:
    """As the kernel writes it."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["bpf", "ext4", "tmpfs"])), max_size=5))
def test_every_mount_point_is_read_as_it_was_written(entries):
    text = "\n".join(f"1 2 3:4 / /{escaped(name)} rw shared:1 - {kind} none rw" for name, kind in entries)
    assert bpffs.mounts(text) == [bpffs.Mount(Path(f"/{name}"), kind) for name, kind in entries]
