# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from l7bpf import bpffs
from l7bpf.errors import DatapathError

MOUNTINFO = r"""
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 24 0:23 / /sys rw,relatime shared:2 - sysfs sysfs rw
26 25 0:24 / /sys/fs/bpf rw - bpf bpf rw,mode=700
27 24 0:25 / /mnt/two\040words rw master:3 - bpf bpf rw
28 24 0:26 / /over rw - bpf bpf rw
29 24 0:27 / /over rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home", "ext4"),
        ("/sys", "sysfs"),
        ("/sys/fs/bpf", "bpf"),
        ("/sys/fs/bpf/l7/v1", "bpf"),
        ("/sys/fs/bpfx", "sysfs"),
        ("/mnt/two words/l7", "bpf"),
        ("/over/l7", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(path, kind):
    assert bpffs.kind_at(Path(path), MOUNTINFO) == kind


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatapathError, match="cannot be made a folder on a bpf file system"):
        bpffs.ensure(tmp_path / "file" / "pins")
