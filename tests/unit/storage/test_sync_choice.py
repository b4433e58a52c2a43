"""Where group commit may be used, and what else a mount says about syncs."""

import pytest

from mogile_storage.commit import group_commit_refusal
from mogile_storage.mounts import mount_of

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 7:0 / /var/mogdata/dev1 rw,relatime - xfs /dev/loop0 rw
31 22 7:1 /volumes/pvc-1 /var/mogdata/dev2 rw,relatime shared:9 - ext4 /dev/sdb rw
32 22 0:50 / /var/mogdata/dev3 rw,relatime - fuse.glusterfs server:/vol rw
33 22 7:2 / /var/mogdata/dev4\\040x rw - ext4 /dev/sdc rw
34 30 7:3 / /var/mogdata/dev1 rw - ext4 /dev/sdd rw
35 22 7:4 / /var/mogdata/dev5 rw master:2 propagate_from:3 - ext4 /dev/sde rw
"""


@pytest.mark.parametrize(
    ("path", "release", "why"),
    [
        ("/var/mogdata/dev1", "6.1.0-13-amd64", None),
        ("/var/mogdata/dev5", "5.17", None),
        ("/var/mogdata/dev4 x", "5.17.1", None),
        ("/var/mogdata/dev1", "5.16.9", "kernel"),
        ("/var/mogdata/dev1", "4.19", "kernel"),
        ("/var/mogdata/dev1", "unknown", "kernel"),
        ("/var/mogdata/dev2", "6.1", "part"),
        ("/var/mogdata/dev3", "6.1", "fuse.glusterfs"),
        ("/var/mogdata/dev6", "6.1", "mount point"),
        ("/var/mogdata/dev1/below", "6.1", "mount point"),
        ("/", "6.1", None),
    ],
)
def test_group_commit_only_on_a_whole_ext4_or_xfs_of_its_own(path, release, why):
    refusal = group_commit_refusal(path, MOUNTS, release)
    if why is None:
        assert refusal is None
    else:
        assert why in refusal


def test_the_mount_on_top_counts():
    assert mount_of("/var/mogdata/dev1/0", MOUNTS).source == "/dev/sdd"
    assert mount_of("/var/mogdata/dev10", MOUNTS).point == "/"
    assert mount_of("/x", "garbage\n") is None


def test_a_mount_without_barriers_is_known():
    line = "36 22 7:5 / /var/mogdata/dev6 rw,noatime - ext4 /dev/sdf rw,nobarrier,data=ordered\n"
    assert mount_of("/var/mogdata/dev6", MOUNTS + line).without_barriers
    assert not mount_of("/var/mogdata/dev5", MOUNTS + line).without_barriers


def test_which_file_systems_keep_a_journal_that_may_be_aborted():
    assert [mount_of(f"/var/mogdata/dev{n}", MOUNTS).is_ext for n in (1, 3, 5)] == [True, False, True]
    assert not mount_of("/x", MOUNTS.splitlines()[1].replace("/var/mogdata/dev1", "/x")).is_ext  # xfs
