"""The SPANK plugin in a stand-in for Slurm (spank_harness.c), under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REPOSITORY: Final = Path(__file__).parents[2]
PLUGIN: Final = REPOSITORY / "slurm_plugin" / "spank"
HARNESS: Final = Path(__file__).with_name("spank_harness.c")
WRAPPED: Final = ("execve", "prctl", "getppid", "calloc", "asprintf", "mmap")

BATCH_STEP: Final = 0xFFFFFFFB
EXTERN_STEP: Final = 0xFFFFFFFC
INTERACTIVE_STEP: Final = 0xFFFFFFFA
NO_VAL: Final = 0xFFFFFFFE
PR_SET_PDEATHSIG: Final = 1

SCRIPT: Final = b"/var/spool/slurmd/job00007/slurm_script"
REFUSAL: Final = "overspill: refuse: step on ovs1: this node stands for a remote site and runs sbatch jobs only"


def _run(argv: Sequence[str | Path]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("spank") / "harness"
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    wraps = [f"-Wl,--wrap={function}" for function in WRAPPED]
    warnings = ("-Wall", "-Wextra", "-Werror")
    sources = sorted(PLUGIN.glob("*.c"))
    _run(["gcc", "-std=gnu11", "-g", "-O1", *warnings, *sanitizers, *wraps, "-o", program, HARNESS, *sources])
    return program


@dataclass(frozen=True, slots=True)
class Seen:
    """What the plugin asked of Slurm and of the kernel, in order."""

    events: tuple[tuple[str, str], ...]

    def all(self, event: str) -> list[str]:
        return [text for name, text in self.events if name == event]

    def all_bytes(self, event: str) -> list[bytes]:
        return [bytes.fromhex(text) for text in self.all(event)]

    @property
    def payload_runs(self) -> bool:
        return ("payload", "runs") in self.events

    @property
    def task_end(self) -> str:
        (end,) = self.all("task")
        return end

    @property
    def said(self) -> list[str]:
        """Everything that could reach the output of a job or of srun, or a log."""
        return [text for name, text in self.events if name in {"error", "info", "log"}]


@dataclass(frozen=True, slots=True)
class Slurm:
    """Starts the plugin as a Slurm program would."""

    harness: Path
    directory: Path

    @property
    def proxy(self) -> Path:
        return self.directory / "__main__.py"

    @property
    def arguments(self) -> list[str]:
        return [
            "nodes=c9,ovs[1-4]",
            "python=/usr/bin/python3",
            f"proxy={self.proxy}",
            "socket=/run/overspill/relay.sock",
        ]

    def load(self, arguments: Sequence[str], node: str | None, **asked: str | int | Path) -> Seen:
        done = subprocess.run(
            [self.harness, *(f"{key}={value}" for key, value in asked.items()), "--", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={} if node is None else {"SLURMD_NODENAME": node},
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        lines = (line.partition(" ") for line in done.stdout.splitlines())
        return Seen(tuple((name, text) for name, _, text in lines))

    def start_step(
        self,
        *,
        node: str | None = "ovs1",
        step: int | None = BATCH_STEP,
        arguments: Sequence[str] | None = None,
        argv: Sequence[bytes] | None = (SCRIPT,),
        environment: Sequence[bytes] | None = (b"A=1",),
        job: int | None = 7,
        numbers: Mapping[str, int] = MappingProxyType({}),
        failing: tuple[str, int] | None = None,
        **asked: str | int,
    ) -> Seen:
        known: dict[str, str | int | Path] = {"context": "remote", **numbers, **asked}
        if step is not None:
            known["step"] = step
        if job is not None:
            known["job"] = job
        if failing is not None:
            known[failing[0]] = failing[1]
        for key, strings in (("argv", argv), ("environment", environment)):
            if strings is not None:
                known[key] = self.directory / key
                (self.directory / key).write_bytes(b"".join(string + b"\0" for string in strings))
        return self.load(self.arguments if arguments is None else arguments, node, **known)

    def submit(self, context: str, choice: str) -> Seen:
        return self.load(self.arguments, None, context=context, choose=choice)


@pytest.fixture
def slurm(harness: Path, tmp_path: Path) -> Slurm:
    plugged = Slurm(harness, tmp_path)
    plugged.proxy.touch()
    return plugged


# --overspill


@pytest.mark.parametrize("context", ["allocator", "local"])
@pytest.mark.parametrize("choice", ["auto", "never", "always", "site-a", "3.hpc_x"])
def test_each_choice_is_taken_where_jobs_are_submitted(slurm: Slurm, context: str, choice: str) -> None:
    seen = slurm.submit(context, choice)
    assert seen.all("register") == ["overspill auto|never|always|<site> 1", "overspill-image <image> 1"]
    assert seen.all("choose") == ["0"]
    assert seen.said == []


@pytest.mark.parametrize("context", ["allocator", "local"])
@pytest.mark.parametrize("choice", ["", "Always", "auto ", "-site", ".", "site,b", "%s%n", "-"])
def test_any_other_choice_is_refused_with_the_choices_there_are(slurm: Slurm, context: str, choice: str) -> None:
    seen = slurm.submit(context, choice)
    assert seen.all("choose") == ["-1"]
    shown = "" if choice == "-" else choice
    assert seen.said == [f"overspill: read: --overspill={shown}: write auto, never, always or a site's name"]


@pytest.mark.parametrize("image", ["base", "Bench-13.2_x", "-x"])
def test_an_images_name_is_taken_where_jobs_are_submitted(slurm: Slurm, image: str) -> None:
    seen = slurm.load(slurm.arguments, None, context="allocator", image=image)
    assert (seen.all("image"), seen.said) == (["0"], [])


@pytest.mark.parametrize("image", ["", "a b", "registry/base:13", "%n", "-"])
def test_what_is_no_images_name_is_refused(slurm: Slurm, image: str) -> None:
    seen = slurm.load(slurm.arguments, None, context="allocator", image=image)
    assert seen.all("image") == ["-1"]
    shown = "" if image == "-" else image
    told = "write the name of an image that a site offers"
    assert seen.said == [f"overspill: read: --overspill-image={shown}: {told}"]


def test_no_image_fails_a_job_that_slurmctld_has_taken(slurm: Slurm) -> None:
    seen = slurm.start_step(node="ovs1", image="a b")
    assert seen.all("image") == ["0"]


@pytest.mark.parametrize("node", ["ovs1", "c1"])
def test_no_choice_fails_a_job_that_slurmctld_has_taken(slurm: Slurm, node: str) -> None:
    seen = slurm.start_step(node=node, choose="site-of-a-newer-sbatch")
    assert seen.all("choose") == ["0"]
    assert seen.said == []


def test_prolog_and_epilog_are_left_alone(slurm: Slurm) -> None:
    assert slurm.load(slurm.arguments, "ovs1", context="job_script").events == (("init", "0"), ("exit", "0"))


# plugstack.conf

DEFECTS: Final = [
    (["nodes=ovs1"], "python=: missing"),
    (["nodes=ovs1", "python=/p", "proxy=/x"], "socket=: missing"),
    (["python=/p", "proxy=/x", "socket=/s"], "nodes=: missing"),
    (["nodes=", "python=/p", "proxy=/x", "socket=/s"], "nodes=: empty"),
    (["nodes=ovs1", "python=python3", "proxy=/x", "socket=/s"], "python=python3: not an absolute path"),
    (["nodes=ovs1", "python=/p", "proxy=", "socket=/s"], "proxy=: empty"),
    (["nodes=ovs1", "nodes=ovs2", "python=/p", "proxy=/x", "socket=/s"], "nodes=ovs2: given twice"),
    (["nodes=ovs1", "phyton=/p", "proxy=/x", "socket=/s"], "phyton=/p: there is no such argument"),
    (["nodes"], "nodes: there is no such argument"),
    (["nodes=ovs[1-4", "python=/p", "proxy=/x", "socket=/s"], "nodes=ovs[1-4: not a hostlist"),
    (["nodes=ovs1-4]", "python=/p", "proxy=/x", "socket=/s"], "nodes=ovs1-4]: not a hostlist"),
    (["nodes=ovs[[1-4]", "python=/p", "proxy=/x", "socket=/s"], "nodes=ovs[[1-4]: not a hostlist"),
    (["nodes=ovs1;ovs2", "python=/p", "proxy=/x", "socket=/s"], "nodes=ovs1;ovs2: not a hostlist"),
    (
        ["nodes=ovs1", "python=/p", "proxy=/x", "socket=/" + "s" * 107],
        "socket=: longer than a Unix socket's path can be",
    ),
]


@pytest.mark.parametrize(("arguments", "defect"), DEFECTS)
def test_slurmd_logs_what_is_wrong_and_starts(slurm: Slurm, arguments: list[str], defect: str) -> None:
    seen = slurm.load(arguments, None, context="slurmd")
    assert seen.events == (("error", f"overspill: configure: plugstack.conf: {defect}"), ("init", "0"), ("exit", "0"))


@pytest.mark.parametrize("arguments", [[], None])
def test_slurmd_has_nothing_to_say_about_a_sound_line(slurm: Slurm, arguments: list[str] | None) -> None:
    given_arguments = slurm.arguments if arguments is None else arguments
    assert slurm.load(given_arguments, None, context="slurmd").said == []


def test_an_endless_argument_is_cut_in_the_log(slurm: Slurm) -> None:
    (line,) = slurm.load(["x" * 10_000], None, context="slurmd").said
    assert len(line) < 600


@pytest.mark.parametrize("context", ["allocator", "local"])
def test_no_defect_disturbs_a_submission(slurm: Slurm, context: str) -> None:
    assert slurm.load(["phyton=/p"], None, context=context, choose="auto").said == []


# Real nodes


@pytest.mark.parametrize("step", [BATCH_STEP, INTERACTIVE_STEP, EXTERN_STEP, 0, None])
@pytest.mark.parametrize("node", ["c1", "ovs5", "ovs", "ovs11"])
def test_a_node_that_is_not_listed_runs_its_payload_as_ever(slurm: Slurm, node: str, step: int | None) -> None:
    seen = slurm.start_step(node=node, step=step)
    assert seen.events[2:] == (
        ("init", "0"),
        ("task_init", "0"),
        ("payload", "runs"),
        ("task", "exited 0"),
        ("exit", "0"),
    )


def test_a_bare_line_makes_no_node_virtual(slurm: Slurm) -> None:
    seen = slurm.start_step(arguments=[])
    assert seen.payload_runs
    assert seen.said == []


@pytest.mark.parametrize("node", [None, "", "ovs1"])
@pytest.mark.parametrize("nodes", ["nodes=ovs[1-4", "nodes=ovs[4-1]"])
def test_in_doubt_a_host_without_proxy_and_relay_serves_real_nodes(slurm: Slurm, nodes: str, node: str | None) -> None:
    slurm.proxy.unlink()
    seen = slurm.start_step(node=node, arguments=[nodes, *slurm.arguments[1:]])
    assert seen.payload_runs
    assert seen.said == []


# Virtual nodes: the batch step


@pytest.mark.parametrize("node", ["c9", "ovs1", "ovs4"])
def test_the_batch_script_gives_way_to_the_proxy(slurm: Slurm, node: str) -> None:
    user_arguments = [b"one arg", b"", b"--", b"line\nfeed", b"\xff\xfe"]
    seen = slurm.start_step(node=node, argv=[SCRIPT, *user_arguments])
    assert seen.all_bytes("execve") == [b"/usr/bin/python3"]
    opening = [b"/usr/bin/python3", b"-I", b"-S", bytes(slurm.proxy), b"/run/overspill/relay.sock"]
    assert seen.all_bytes("argv") == [*opening, SCRIPT, *user_arguments]
    assert not seen.payload_runs
    assert seen.said == []
    assert seen.all("exit") == ["0"]


def test_no_signal_reaches_the_proxy_before_it_can_catch_it(slurm: Slurm) -> None:
    blocked = {int(number) for number in slurm.start_step().all("blocked")}
    assert blocked == set(range(1, signal.SIGSYS + 1)) - {signal.SIGKILL, signal.SIGSTOP}


def test_the_proxy_dies_with_its_slurmstepd(slurm: Slurm) -> None:
    seen = slurm.start_step()
    assert seen.all("prctl") == [f"{PR_SET_PDEATHSIG} {signal.SIGKILL}"]
    names = [name for name, _ in seen.events]
    assert names.index("prctl") < names.index("execve")


def test_a_task_whose_slurmstepd_is_dead_already_dies_too(slurm: Slurm) -> None:
    seen = slurm.start_step(ppid=1)
    assert seen.task_end == f"killed by {signal.SIGKILL}"
    assert seen.all("execve") == []
    assert seen.said == []


def test_a_slurmstepd_in_another_pid_namespace_is_not_taken_for_dead(slurm: Slurm) -> None:
    assert slurm.start_step(ppid=0).all_bytes("execve") == [b"/usr/bin/python3"]


def test_thousands_of_arguments_and_variables_arrive_in_order(slurm: Slurm) -> None:
    argv = [SCRIPT, *(b"%d" % number + b"x" * 100 for number in range(5_000))]
    environment = [b"V%d=%s" % (number, b"y" * 100) for number in range(5_000)]
    seen = slurm.start_step(argv=argv, environment=environment)
    assert seen.all_bytes("argv")[5:] == argv
    assert seen.all_bytes("environment") == environment


def test_the_proxy_is_told_of_the_site_s_task_prolog(slurm: Slurm) -> None:
    users_own = b"OVERSPILL_TASK_PROLOG=mine"
    seen = slurm.start_step(environment=[users_own, b"A=1"], task_prolog="/etc/slurm/task prolog")
    assert seen.all_bytes("environment") == [
        b"OVERSPILL_KEPT_" + users_own,
        b"A=1",
        b"OVERSPILL_TASK_PROLOG=/etc/slurm/task prolog",
    ]


def test_an_empty_environment_stays_empty(slurm: Slurm) -> None:
    assert slurm.start_step(environment=[]).all("environment") == []


def test_variables_that_bend_an_interpreter_are_renamed_in_place(slurm: Slurm) -> None:
    environment = [
        b"LD_PRELOAD=/x.so",
        b"OLD_PWD=/",
        b"LD_LIBRARY_PATH=",
        b"LD_=1",
        b"GCONV_PATH=/g",
        b"GCONV_PATHS=/g",
        b"GLIBC_TUNABLES=a=b",
        b"LOCPATH=/l",
        b"LD",
        b"OVERSPILL_KEPT_LD_PRELOAD=/y.so",
    ]
    assert slurm.start_step(environment=environment).all_bytes("environment") == [
        b"OVERSPILL_KEPT_LD_PRELOAD=/x.so",
        b"OLD_PWD=/",
        b"OVERSPILL_KEPT_LD_LIBRARY_PATH=",
        b"OVERSPILL_KEPT_LD_=1",
        b"OVERSPILL_KEPT_GCONV_PATH=/g",
        b"GCONV_PATHS=/g",
        b"OVERSPILL_KEPT_GLIBC_TUNABLES=a=b",
        b"OVERSPILL_KEPT_LOCPATH=/l",
        b"LD",
        b"OVERSPILL_KEPT_OVERSPILL_KEPT_LD_PRELOAD=/y.so",
    ]


entries = st.sampled_from([b"LD_", b"OVERSPILL_KEPT_", b"OVERSPILL_KEPT_LD_A=", b"GCONV_PATH=", b"L", b"PATH=", b"="])


@given(st.lists(st.tuples(entries, st.binary(max_size=20).map(lambda text: text.replace(b"\0", b"")))))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_taking_the_prefix_off_once_gives_back_the_job_s_environment(
    slurm: Slurm, parts: list[tuple[bytes, bytes]]
) -> None:
    environment = [start + rest for start, rest in parts]
    kept = slurm.start_step(environment=environment).all_bytes("environment")
    assert [entry.removeprefix(b"OVERSPILL_KEPT_") for entry in kept] == environment
    assert not any(entry.startswith((b"LD_", b"GCONV_PATH=")) for entry in kept)


# Virtual nodes: every other step


@pytest.mark.parametrize("step", [0, 3, INTERACTIVE_STEP, EXTERN_STEP, None])
@pytest.mark.parametrize("task", [0, None])
def test_every_other_step_is_refused_and_srun_told_why(slurm: Slurm, step: int | None, task: int | None) -> None:
    seen = slurm.start_step(step=step) if task is None else slurm.start_step(step=step, task=task)
    assert seen.task_end == "exited 1"
    assert not seen.payload_runs
    assert seen.all("execve") == []
    assert seen.events.count(("log", REFUSAL)) == 1
    assert seen.said == [REFUSAL]


def test_a_step_of_many_tasks_is_told_once(slurm: Slurm) -> None:
    seen = slurm.start_step(step=0, task=1)
    assert seen.task_end == "exited 1"
    assert seen.said == []


def test_a_refused_step_neither_drains_nor_requeues(slurm: Slurm) -> None:
    seen = slurm.start_step(step=0, arguments=slurm.arguments[:3])
    assert seen.task_end == "exited 1"
    assert seen.all("drain") == []
    assert seen.all("requeue") == []


# Virtual nodes that cannot hand over


def _assert_handed_back(seen: Seen, reason: str) -> None:
    assert not seen.payload_runs
    assert seen.task_end == "exited 1"
    assert seen.all("drain") == [f"ovs1 overspill: cannot hand over: {reason}"]
    assert seen.all("requeue") == ["7 running"]
    assert seen.all("info") == [f"overspill: requeue: job 7: {reason}"]
    assert seen.all("log") == []
    assert seen.all("init") == seen.all("exit") == ["0"]


@pytest.mark.parametrize(("arguments", "defect"), [(words, why) for words, why in DEFECTS if words[0] == "nodes=ovs1"])
def test_a_misconfigured_virtual_node_gives_the_job_back(slurm: Slurm, arguments: list[str], defect: str) -> None:
    seen = slurm.start_step(arguments=arguments)
    _assert_handed_back(seen, defect)
    assert seen.all("error") == [f"overspill: configure: plugstack.conf: {defect}"]
    assert seen.events.index(("init", "0")) > seen.events.index(("error", seen.all("error")[0]))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "nodes=: missing"),
        (["nodes=ovs[1-"], "nodes=ovs[1-: not a hostlist"),
        (["nodes=ovs[4-1]"], "ovs[4-1]: not a hostlist"),
    ],
)
def test_in_doubt_a_host_with_the_proxy_runs_no_payload(slurm: Slurm, nodes: list[str], reason: str) -> None:
    _assert_handed_back(slurm.start_step(arguments=[*nodes, *slurm.arguments[1:]]), reason)


def test_in_doubt_a_host_with_the_relay_s_socket_runs_no_payload(slurm: Slurm) -> None:
    socket = slurm.directory / "relay.sock"
    socket.touch()
    _assert_handed_back(slurm.start_step(arguments=[f"socket={socket}"]), "nodes=: missing")


@pytest.mark.parametrize("node", [None, ""])
def test_a_slurmstepd_that_hides_its_node_s_name_runs_no_payload_beside_the_proxy(
    slurm: Slurm, node: str | None
) -> None:
    seen = slurm.start_step(node=node)
    assert not seen.payload_runs
    assert seen.task_end == "exited 1"
    assert seen.all("requeue") == ["7 running"]


def test_a_proxy_that_is_not_there_gives_the_job_back(slurm: Slurm) -> None:
    slurm.proxy.unlink()
    seen = slurm.start_step()
    _assert_handed_back(seen, f"{slurm.proxy}: No such file or directory")
    assert seen.all("execve") == []
    assert seen.all("error") == []


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (("execve", errno.ENOENT), "/usr/bin/python3: No such file or directory"),
        (("execve", errno.EACCES), "/usr/bin/python3: Permission denied"),
        (("prctl", errno.EINVAL), "PR_SET_PDEATHSIG: Invalid argument"),
    ],
)
def test_an_interpreter_that_cannot_start_gives_the_job_back(
    slurm: Slurm, failing: tuple[str, int], reason: str
) -> None:
    _assert_handed_back(slurm.start_step(failing=failing), reason)


def test_a_slurmstepd_that_tells_no_argv_or_environment_gives_the_job_back(slurm: Slurm) -> None:
    _assert_handed_back(slurm.start_step(argv=None), "argv: slurmstepd does not tell what to run")
    _assert_handed_back(slurm.start_step(argv=[]), "argv: slurmstepd does not tell what to run")
    _assert_handed_back(slurm.start_step(environment=None), "environment: slurmstepd does not tell it")


@pytest.mark.parametrize("error", [errno.E2BIG, errno.EAGAIN, errno.ENOMEM])
def test_a_job_too_big_to_execute_fails_as_it_would_on_a_real_node(slurm: Slurm, error: int) -> None:
    seen = slurm.start_step(failing=("execve", error))
    assert seen.task_end == f"exited {error}"
    assert seen.said == [f"overspill: hand over: /usr/bin/python3: {os.strerror(error)}"]
    assert seen.all("drain") == []
    assert seen.all("requeue") == []


@pytest.mark.parametrize("function", ["calloc", "asprintf"])
def test_a_job_for_which_there_is_no_memory_fails(slurm: Slurm, function: str) -> None:
    seen = slurm.start_step(failing=(function, errno.ENOMEM), environment=[b"LD_PRELOAD=/x.so"])
    assert seen.task_end == f"exited {errno.ENOMEM}"
    assert seen.said == ["overspill: hand over: argv and environment: Cannot allocate memory"]


def test_a_job_that_may_not_be_requeued_fails_with_the_reason_on_its_stderr(slurm: Slurm) -> None:
    seen = slurm.start_step(execve=errno.ENOENT, requeue=errno.EPERM)
    assert seen.task_end == "exited 1"
    assert seen.all("error") == ["overspill: hand over: /usr/bin/python3: No such file or directory"]


def test_a_job_without_a_number_fails_with_the_reason_on_its_stderr(slurm: Slurm) -> None:
    seen = slurm.start_step(job=None, failing=("execve", errno.ENOENT))
    assert seen.all("requeue") == []
    assert seen.all("error") == ["overspill: hand over: /usr/bin/python3: No such file or directory"]


def test_of_a_job_array_only_the_task_at_hand_is_requeued(slurm: Slurm) -> None:
    seen = slurm.start_step(array=5, array_task=3, execve=errno.ENOENT)
    assert seen.all("requeue") == ["5_3 running"]
    assert seen.all("info") == ["overspill: requeue: job 5_3: /usr/bin/python3: No such file or directory"]
    assert seen.all("free") == ["1"]


@pytest.mark.parametrize("numbers", [{}, {"array": 0}, {"array": 5}, {"array": 5, "array_task": NO_VAL}])
def test_a_job_outside_arrays_is_requeued_by_its_own_number(slurm: Slurm, numbers: dict[str, int]) -> None:
    assert slurm.start_step(numbers=numbers, execve=errno.ENOENT).all("requeue") == ["7 running"]


def test_an_array_task_that_may_not_be_requeued_fails_with_the_reason_on_its_stderr(slurm: Slurm) -> None:
    seen = slurm.start_step(array=5, array_task=3, execve=errno.ENOENT, requeue_task=errno.EPERM)
    assert seen.all("error") == ["overspill: hand over: /usr/bin/python3: No such file or directory"]
    assert seen.all("info") == []


def test_a_node_that_cannot_be_drained_still_gives_the_job_back(slurm: Slurm) -> None:
    seen = slurm.start_step(execve=errno.ENOENT, update=errno.EPERM)
    assert seen.all("requeue") == ["7 running"]
    assert "overspill: drain: ovs1: Operation not permitted" in seen.all("info")


def test_without_shared_memory_the_proxy_still_starts(slurm: Slurm) -> None:
    assert slurm.start_step(mmap=errno.ENOMEM).all_bytes("execve") == [b"/usr/bin/python3"]


def test_without_shared_memory_a_known_defect_still_gives_the_job_back(slurm: Slurm) -> None:
    _assert_handed_back(slurm.start_step(mmap=errno.ENOMEM, arguments=["nodes=ovs1"]), "python=: missing")


# The shared object


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plugin")
    _run(["make", "--silent", "-C", PLUGIN, f"OUT={out}"])
    return out / "spank_overspill.so"


def test_the_plugin_exports_what_slurm_looks_up_and_nothing_else(plugin: Path) -> None:
    exported = {line.split()[-1] for line in _run(["nm", "--dynamic", "--defined-only", plugin]).splitlines()}
    assert exported == {
        "plugin_name",
        "plugin_type",
        "plugin_version",
        "spank_plugin_version",
        "slurm_spank_init",
        "slurm_spank_task_init",
        "slurm_spank_exit",
    }


def test_the_plugin_is_hardened(plugin: Path) -> None:
    layout = _run(["readelf", "--wide", "--dynamic", "--program-headers", plugin])
    assert "BIND_NOW" in layout
    assert "GNU_RELRO" in layout
    (stack,) = (line for line in layout.splitlines() if "GNU_STACK" in line)
    assert " E " not in stack
    undefined = _run(["nm", "--dynamic", "--undefined-only", plugin])
    assert "__stack_chk_fail" in undefined
    assert "__snprintf_chk" in undefined
