"""What a run sees of the host, decided without touching one."""

import stat
from pathlib import PurePosixPath as P

import pytest

from overspill_agent.backends.sandbox import Roots, Sandbox, Wanted, build

FILES = P("/state/runs/r1/files")
CONTROL = P("/state/runs/r1/control")
SCRIPT = P("/var/spool/slurmd/ovs1/job00042")
DIRECTORY, SYMLINK, FILE = stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFREG | 0o644


class FakeHost:
    """A small machine: names, modes, owners; one symlink at the root, and one from /data to /mnt/data."""

    def __init__(self) -> None:
        paths = "/ /dev /dev/shm /etc /etc/overspill /home /mnt /mnt/data /proc /state /state/runs /tmp /usr"
        paths += " /usr/bin /usr/share /var /var/spool /var/spool/cron /var/tmp /work /work/alice /work/pub"
        self._modes = dict.fromkeys(map(P, paths.split()), DIRECTORY)
        self._modes[P("/tmp")] = self._modes[P("/var/tmp")] = stat.S_IFDIR | 0o1777
        self._modes |= dict.fromkeys(map(P, ("/run", "/run/dbus", "/run/resolve", "/sys")), DIRECTORY)
        self._modes |= dict.fromkeys(map(P, ("/vmlinuz", "/etc/passwd", "/run/resolve/stub.conf")), FILE)
        self._modes[P("/run/dbus/socket")] = stat.S_IFSOCK | 0o777
        self._links = {P("/bin"): "usr/bin", P("/data"): "/mnt/data", P("/var/run"): "/run"}
        self._links[P("/etc/resolv.conf")] = "/run/resolve/stub.conf"
        self._owners = {P("/work/alice"): 2001}

    def mode(self, path: P) -> int | None:
        return SYMLINK if path in self._links else self._modes.get(path)

    def owner(self, path: P) -> int:
        return self._owners.get(path, 0)

    def link_target(self, path: P) -> str:
        return self._links[path]

    def resolve(self, path: P) -> P:
        for link, target in self._links.items():
            if path.is_relative_to(link):
                return link.parent / target / path.relative_to(link)
        return path

    def entries(self, path: P) -> list[str]:
        return sorted(entry.name for entry in {*self._modes, *self._links} if entry.parent == path != entry)


PRIVATE = ("/home", "/tmp", "/var/tmp", "/dev/shm")
ROOTS = Roots(
    private=tuple(map(P, PRIVATE)),
    shared=(),
    hidden=(P("/state"), P("/state/runs"), P("/etc/overspill"), P("/tmp/cache")),
)


def sandbox_of(*directories: str, script: P = SCRIPT, roots: Roots = ROOTS) -> Sandbox:
    return build(FakeHost(), roots, Wanted(script, tuple(map(P, directories))), files=FILES, control=CONTROL)


def operations(sandbox: Sandbox) -> dict[str, tuple[str, ...]]:
    """Return what happens last to each place: its operation and source."""
    arguments = iter(sandbox.mounts)
    result: dict[str, tuple[str, ...]] = {}
    for option in arguments:
        match option:
            case "--bind" | "--ro-bind-try" | "--symlink":
                source, place = next(arguments), next(arguments)
                result[place] = (option, source)
            case "--perms":
                mode, kind, place = next(arguments), next(arguments), next(arguments)
                result[place] = (kind, mode)
            case _:
                result[next(arguments)] = (option,)
    return result


def test_the_host_is_seen_read_only_with_its_symlinks() -> None:
    seen = operations(sandbox_of("/home/alice"))
    assert seen["/usr"] == ("--ro-bind-try", "/usr")
    assert seen["/vmlinuz"] == ("--ro-bind-try", "/vmlinuz")
    assert seen["/bin"] == ("--symlink", "usr/bin")
    assert seen["/proc"] == ("--proc",)
    assert seen["/dev"] == ("--dev",)
    assert seen["/.overspill"] == ("--bind", str(CONTROL))


def test_private_directories_are_the_runs_own_and_hold_what_it_wants() -> None:
    sandbox = sandbox_of("/home/alice/project/x", "/home/alice")
    seen = operations(sandbox)
    for private in ("/home", "/tmp", "/var/tmp", "/dev/shm"):
        assert seen[private] == ("--bind", f"{FILES}{private}")
    made = list(map(str, sandbox.private_directories))
    assert [path for path in made if path.startswith("/home")] == [
        "/home",
        "/home/alice",
        "/home/alice/project",
        "/home/alice/project/x",
    ]


def test_a_place_that_the_host_lacks_is_made_by_rebuilding_what_it_lies_in() -> None:
    sandbox = sandbox_of("/scratch/alice/job")
    seen = operations(sandbox)
    assert seen["/scratch/alice/job"] == ("--bind", f"{FILES}/scratch/alice/job")
    assert seen["/scratch"] == seen["/scratch/alice"] == ("--dir", "0755")
    assert seen["/var"] == seen["/var/spool"] == ("--dir", "0755")
    assert seen["/var/spool/cron"] == ("--ro-bind-try", "/var/spool/cron")
    assert seen[str(SCRIPT)] == ("--bind", f"{FILES}{SCRIPT}")
    assert P("/scratch/alice/job") in sandbox.private_directories
    assert P("/scratch/alice") not in sandbox.private_directories


def test_a_users_own_directory_at_the_site_is_not_the_one_at_the_cluster() -> None:
    assert operations(sandbox_of("/work/alice"))["/work/alice"] == ("--bind", f"{FILES}/work/alice")


@pytest.mark.parametrize("directory", ["/", "/usr/share", "/etc", "/work/pub", "/proc"])
def test_what_the_host_has_for_everybody_stays_visible(directory: str) -> None:
    sandbox = sandbox_of(directory)
    assert P(directory) not in sandbox.private_directories
    assert operations(sandbox).get(directory, ("unmentioned",))[0] != "--bind"


def test_the_agents_own_directories_are_hidden() -> None:
    seen = operations(sandbox_of("/home/alice"))
    assert seen["/state"] == ("--tmpfs",)
    assert seen["/etc/overspill"] == ("--tmpfs",)
    assert "/state/runs" not in seen
    assert "/tmp/cache" not in seen


def test_a_shared_directory_is_the_hosts_and_writable() -> None:
    roots = Roots(private=(P("/tmp"),), shared=(P("/home"),), hidden=())
    sandbox = sandbox_of("/home/alice/project", roots=roots)
    assert operations(sandbox)["/home"] == ("--bind", "/home")
    assert not [path for path in sandbox.private_directories if path.is_relative_to("/home")]


def test_a_place_behind_a_symlink_is_made_where_the_symlink_leads() -> None:
    seen = operations(sandbox_of("/data/alice"))
    assert seen["/data"] == ("--symlink", "/mnt/data")
    assert seen["/mnt/data/alice"] == ("--bind", f"{FILES}/mnt/data/alice")
    assert seen["/mnt"] == ("--dir", "0755")


def test_a_directory_in_another_is_made_in_it_and_mounted_once() -> None:
    sandbox = sandbox_of("/scratch/a/b/c", "/scratch/a")
    assert [place for place in operations(sandbox) if place.startswith("/scratch/a")] == ["/scratch/a"]
    own = [str(path) for path in sandbox.private_directories if path.is_relative_to("/scratch")]
    assert own == ["/scratch/a", "/scratch/a/b", "/scratch/a/b/c"]


def test_the_scripts_directory_is_writable_even_where_the_host_has_one_of_roots() -> None:
    assert operations(sandbox_of(script=P("/var/spool/cron")))["/var/spool/cron"] == (
        "--bind",
        f"{FILES}/var/spool/cron",
    )
    assert operations(sandbox_of(script=P("/usr/bin")))["/usr"] == ("--ro-bind-try", "/usr")


def test_mounts_come_parents_first() -> None:
    places = list(operations(sandbox_of("/scratch/a", "/home/alice")))
    for place in places:
        for parent in P(place).parents:
            if str(parent) in places:
                assert places.index(str(parent)) < places.index(place)


def test_of_run_only_what_name_resolution_needs_is_seen() -> None:
    seen = operations(sandbox_of("/home/alice"))
    below = {place: operation for place, operation in seen.items() if P(place).is_relative_to("/run")}
    assert below == {
        "/run": ("--dir", "0755"),
        "/run/resolve": ("--dir", "0755"),
        "/run/resolve/stub.conf": ("--ro-bind-try", "/run/resolve/stub.conf"),
    }
    assert seen["/var/run"] == ("--symlink", "/run")


def test_a_directory_below_run_is_the_runs_own_unless_the_site_shares_it() -> None:
    assert operations(sandbox_of("/var/run/dbus/x"))["/run/dbus/x"] == ("--bind", f"{FILES}/run/dbus/x")
    roots = Roots(private=(), shared=(P("/run/dbus"),), hidden=())
    assert operations(sandbox_of(roots=roots))["/run/dbus"] == ("--bind", "/run/dbus")


@pytest.mark.parametrize(
    "directory",
    [
        *("/proc/1", "/proc/x", "/sys", "/sys/x", "/dev/x", "/.overspill", "/.overspill/x"),
        *("/etc/passwd", "/etc/passwd/x/y", "/work/" + "x" * 256, "/work" + "/x" * 2000),
    ],
)
def test_what_cannot_be_made_is_left_out(directory: str) -> None:
    without, sandbox = sandbox_of("/home/alice"), sandbox_of("/home/alice", directory)
    assert (sandbox.mounts, sandbox.private_directories) == (without.mounts, without.private_directories)
    assert sandbox_of(script=P(directory)).private_directories == [P(path) for path in PRIVATE]


def test_a_private_directory_in_dev_is_made_in() -> None:
    assert P("/dev/shm/alice") in sandbox_of("/dev/shm/alice").private_directories
