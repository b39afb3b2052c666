"""What is made and written for a run's limits, on hosts of either version."""

import os
from pathlib import Path, PurePosixPath

import pytest

from overspill.errors import AdminError, UnavailableError
from overspill_agent.backends.cgroups import Cgroups, Group, Hierarchy, Limits, cgroups_of, groups, hierarchy
from overspill_agent.backends.run_files import memory_limit_mib
from overspill_agent.runs import Resources

V1 = """
22 1 0:20 / /sys rw - sysfs sysfs rw
30 22 0:25 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
31 22 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
""".strip()
V2 = """
22 1 0:20 / /sys rw - sysfs sysfs rw
30 22 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
""".strip()
TWO = Resources(cpus=2, memory_mib=100)


def test_controllers_are_found_where_they_are_mounted() -> None:
    v1 = Hierarchy(1, PurePosixPath("/sys/fs/cgroup/memory"), PurePosixPath("/sys/fs/cgroup/cpu,cpuacct"))
    assert hierarchy(V1) == v1
    assert hierarchy(V2) == Hierarchy(2, PurePosixPath("/sys/fs/cgroup"), PurePosixPath("/sys/fs/cgroup"))
    with pytest.raises(AdminError, match="neither cgroup v1"):
        hierarchy(V2.replace("cgroup2", "tmpfs"))


def test_of_version_1_memory_is_limited_before_memory_and_swap_together() -> None:
    memory, cpu = groups(hierarchy(V1), "r-1", TWO)
    size = str(100 << 20)
    assert memory == Group(
        PurePosixPath("/sys/fs/cgroup/memory/overspill-r-1"),
        (("memory.limit_in_bytes", size), ("memory.memsw.limit_in_bytes", size)),
    )
    assert cpu == Group(
        PurePosixPath("/sys/fs/cgroup/cpu,cpuacct/overspill-r-1"),
        (("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "200000")),
    )


def test_of_version_2_one_cgroup_has_all_limits_and_no_swap() -> None:
    assert groups(hierarchy(V2), "r-1", TWO) == [
        Group(
            PurePosixPath("/sys/fs/cgroup/overspill-r-1"),
            (("memory.max", str(100 << 20)), ("memory.swap.max", "0"), ("cpu.max", "200000 100000")),
        )
    ]


@pytest.mark.parametrize(("wanted", "site", "limit"), [(100, 1000, 148), (0, 1000, 1048), (100, 0, 148), (0, 0, 0)])
def test_a_run_may_use_what_it_asked_for_beside_its_runner_or_else_what_there_is(
    wanted: int, site: int, limit: int
) -> None:
    assert memory_limit_mib(wanted, site) == limit


@pytest.mark.parametrize("mounts", [V1, V2])
def test_what_is_not_asked_for_is_not_limited(mounts: str) -> None:
    settings = [name for group in groups(hierarchy(mounts), "r-1", Resources(cpus=1)) for name, _ in group.settings]
    assert settings
    assert not any(name.startswith("memory") for name in settings)


def test_cgroups_are_made_found_and_removed(tmp_path: Path) -> None:
    """Of version 2, in a plain directory, where no file is there by itself: the optional ones are left out."""
    cgroups = Cgroups(Hierarchy(2, PurePosixPath(tmp_path), PurePosixPath(tmp_path)))
    (processes,) = cgroups.make("r-1", TWO)
    assert processes == tmp_path / "overspill-r-1" / "cgroup.procs"
    assert (processes.parent / "cpu.max").read_text() == "200000 100000"
    assert not (processes.parent / "memory.swap.max").exists()  # no swap to limit
    cgroups.make("rr-1", TWO)
    assert cgroups.of_run("r") == [processes.parent]
    with pytest.raises(UnavailableError, match="cannot remove the cgroup"):
        cgroups.remove([processes.parent])
    for file in processes.parent.iterdir():
        file.unlink()
    cgroups.remove([processes.parent, processes.parent])
    assert cgroups.of_run("r") == []


def test_cgroups_of_runs_that_nobody_is_in_are_swept_away_unless_they_are_new(tmp_path: Path) -> None:
    cgroups = Cgroups(Hierarchy(2, PurePosixPath(tmp_path), PurePosixPath(tmp_path)))
    old, new, busy = (f"overspill-{digit * 32}-1" for digit in "012")
    for name in (old, new, busy, "overspill-engine.1", "overspill-trial-1"):
        (tmp_path / name).mkdir()
    (tmp_path / busy / "as with a process in it").touch()
    for name in (old, busy, "overspill-engine.1", "overspill-trial-1"):
        os.utime(tmp_path / name, (0, 0))
    cgroups.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {new, busy, "overspill-engine.1", "overspill-trial-1"}


def test_a_host_without_cgroups_is_refused_only_where_limits_are_to_be_enforced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Cgroups:
        raise AdminError("read-only file system")

    monkeypatch.setattr(Cgroups, "of_this_host", fail)
    assert cgroups_of(Limits.NONE) is None
    assert cgroups_of(Limits.BEST_EFFORT) is None
    with pytest.raises(AdminError, match="read-only file system"):
        cgroups_of(Limits.ENFORCED)
