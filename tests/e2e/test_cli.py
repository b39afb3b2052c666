"""`overspill` on a real cluster: as root, as SlurmUser and as a user, with everything up and with parts of it down."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.commands import overspill, overspill_json
from tests.e2e.diversion import submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig

_CONF = "/etc/slurm/slurm.conf"
_PLUGSTACK = "/etc/slurm/plugstack.conf"
_HELLO = "#!/bin/bash\necho hello from $(hostname)\n"


def test_a_sound_cluster_has_no_errors(rig: Rig) -> None:
    wait_until_diverting(rig)
    done = overspill(rig, "check")
    assert done.returncode == 0, done.stdout
    assert "no errors" in done.stdout.splitlines()[-1]


def test_a_sound_site_has_no_errors(rig: Rig) -> None:
    done = overspill(rig, "check", at="site")
    assert done.returncode == 0, done.stdout
    assert "it can build a sandbox" in done.stdout


def test_root_and_slurm_user_see_the_status_of_both_daemons_and_each_site(rig: Rig) -> None:
    wait_until_diverting(rig)
    for user in ("root", "slurm"):
        status = overspill_json(rig, "status", user=user)
        assert (status["cluster"], status["mode"], status["problems"]) == ("rig", "always", [])
        (site,) = status["sites"]
        assert (site["name"], site["is_reachable"], site["total_cpus"]) == ("site-a", True, 8)
        assert status["router"]["version"] == status["relay"]["version"]
        assert status["router"]["queue_reader"] == "pyslurm"


def test_times_in_the_policy_are_shown_as_slurm_writes_them(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=on,overspill_wait=90")
    wait_until(lambda: bool(overspill_json(rig, "status")["policy"]), timeout_s=30, what="the router to see the policy")
    assert overspill_json(rig, "status")["policy"]["overspill_wait"] == "01:30:00"


def test_a_user_sees_what_slurm_shows_and_is_told_what_he_may_not_see(rig: Rig) -> None:
    done = overspill(rig, "status", user="alice")
    assert done.returncode == 0
    assert "only root and SlurmUser may ask the router" in done.stdout
    assert "ovs1" in done.stdout


def test_a_diverted_job_is_listed_explained_and_its_output_shown(rig: Rig) -> None:
    job = submit_diverted(rig, _HELLO)
    rig.wait_for_state(job, "COMPLETED", timeout_s=60)
    (listed,) = [it for it in overspill_json(rig, "jobs", user="alice")["jobs"] if it["job_id"] == str(job)]
    assert (listed["user"], listed["site"], listed["state"]) == ("alice", "site-a", "COMPLETED")
    why = overspill_json(rig, "explain", str(job))
    assert (why["decision"]["reason"], why["certainty"], why["site"]) == ("mode_always", "certain", "site-a")
    for user in ("root", "alice"):
        assert overspill(rig, "logs", str(job), user=user).stdout == "hello from site\n"
    refused = overspill(rig, "logs", str(job), user="bob")
    assert refused.returncode == 1
    assert "only its owner and root" in refused.stderr


def test_the_story_of_a_job_goes_from_the_decision_to_the_end_of_its_run(rig: Rig) -> None:
    job = submit_diverted(rig, _HELLO)
    rig.wait_for_state(job, "COMPLETED", timeout_s=60)

    def actions() -> list[str]:
        return [event["action"] for event in overspill_json(rig, "logs", str(job), "--events")]

    wait_until(lambda: "run_settled" in actions(), timeout_s=30, what="the relay to settle the run")
    seen = actions()
    expected = ["decided", "proxy_admitted", "run_accepted", "run_state", "first_output", "run_settled"]
    assert [action for action in expected if action in seen] == expected
    assert [seen.index(action) for action in expected] == sorted(seen.index(action) for action in expected)


def test_logs_follows_an_array_task_to_its_end(rig: Rig) -> None:
    script = "#!/bin/bash\nfor i in 1 2 3; do echo $SLURM_ARRAY_TASK_ID.$i; sleep 1; done\n"
    job = submit_diverted(rig, script, "--array=4-5")
    assert overspill(rig, "logs", f"{job}_5", "-f", user="alice").stdout == "5.1\n5.2\n5.3\n"
    assert f"job {job} is an array" in overspill(rig, "logs", str(job), user="alice").stderr


def test_a_local_jobs_decision_is_found_by_its_likeness(rig: Rig) -> None:
    job = rig.sbatch(_HELLO, "--exclusive", "--job-name=takes-all")
    why = overspill_json(rig, "explain", str(job))
    assert (why["site"], why["decision"]["reason"], why["certainty"]) == (None, "exclusive", "certain")
    assert "whole nodes" in why["because"]


def test_of_a_job_that_was_never_asked_about_nothing_is_known_and_that_is_said(rig: Rig) -> None:
    job = rig.sbatch(_HELLO, "--overspill=never")
    done = overspill(rig, "explain", str(job))
    assert done.returncode == 0
    assert "no decision is known: it was submitted with --overspill=never" in done.stdout


def test_a_job_that_slurm_does_not_know_is_one_line_and_exit_code_1(rig: Rig) -> None:
    for command in ("explain", "logs"):
        done = overspill(rig, command, "999999")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("overspill: Slurm does not know job 999999")


def test_what_went_where_is_still_known_after_a_restart_of_the_sidecar(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    diverted, local = submit_diverted(rig, _HELLO), rig.sbatch(_HELLO, "--exclusive")
    rig.wait_for_state(diverted, "COMPLETED", timeout_s=60)
    rig.cluster.daemon("sidecar").stop()
    stopped = overspill(rig, "explain", str(diverted))
    assert "the router's records cannot be seen" in stopped.stdout
    assert "given to site-a by decision" in stopped.stdout
    rig.cluster.daemon("sidecar").start()
    assert overspill_json(rig, "explain", str(diverted))["decision"]["reason"] == "mode_always"
    assert overspill_json(rig, "explain", str(local))["decision"]["reason"] == "exclusive"
    assert "run_accepted" in overspill(rig, "logs", str(diverted), "--events", "--json").stdout


def test_with_parts_down_each_command_says_which(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    rig.site.daemon("agent").stop()
    wait_until(
        lambda: any("site-a" in problem for problem in overspill_json(rig, "status")["problems"]),
        timeout_s=60,
        what="the status to tell that the agent is down",
    )
    assert _errors(rig)["site site-a: agent"] == "nobody listens on site:7443"
    assert "nobody listens on 0.0.0.0:7443" in overspill(rig, "check", at="site").stdout
    rig.cluster.daemon("sidecar").stop()
    assert {"router", "relay"} < set(_errors(rig))
    assert overspill(rig, "jobs").returncode == 0
    rig.cluster.daemon("slurmctld").stop()
    assert "slurmctld" in _errors(rig)
    for command in (["jobs"], ["explain", "1"], ["logs", "1"]):
        done = overspill(rig, *command)
        assert done.returncode == 1
        assert "slurmctld does not answer" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert overspill(rig, "status").returncode == 1


@pytest.mark.parametrize(
    ("words", "completed"),
    [("overspill ex", "explain"), ("overspill jobs --site s", "site-a"), ("overspill logs ", None)],
)
def test_a_shell_completes_commands_sites_and_job_ids(rig: Rig, words: str, completed: str | None) -> None:
    job = rig.sbatch(_HELLO)
    index = len(words.split()) - (not words.endswith(" "))
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(index), "_OVERSPILL_COMPLETE": "bash_complete"}
    offered = overspill(rig, env=variables).stdout
    assert f"plain,{completed or job}\n" in offered


def test_without_any_configuration_check_says_what_to_write(rig: Rig) -> None:
    absent = {"OVERSPILL_SIDECAR_CONFIG": "/nowhere/s.toml", "OVERSPILL_AGENT_CONFIG": "/nowhere/a.toml"}
    done = overspill(rig, "check", env=absent)
    assert done.returncode == 1
    assert "no side of Overspill is configured on this host" in done.stdout


def _errors(rig: Rig) -> dict[str, str]:
    """Return the errors that `check` finds, by subject."""
    found = json.loads(overspill(rig, "check", "--json").stdout)["findings"]
    return {finding["subject"]: finding["says"] for finding in found if finding["level"] == "error"}


@pytest.mark.parametrize("user", ["root", "alice"])
def test_the_doctors_probe_goes_the_whole_way_and_leaves_nothing(rig: Rig, user: str) -> None:
    wait_until_diverting(rig)
    arguments = ["--user", "alice"] if user == "root" else []
    found = overspill_json(rig, "doctor", *arguments, user=user)
    assert found["ok"], found
    assert overspill(rig, "doctor", "--site", "site-a", *arguments, user=user).returncode == 0
    names = [hop["name"] for hop in found["hops"]]
    assert names[-3:] == ["first line in the output file", "signal, there and back", "the job's end, in Slurm"]
    assert ("the site stored the run" in names) == (user == "root")
    assert not list(rig.cluster.path("/home/alice").glob("overspill-doctor-*"))


def test_the_doctor_says_at_which_hop_it_stopped(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    before = rig.cluster.path(_PLUGSTACK).read_text()
    for text, hop, remedy in (
        ("", "sbatch", "plugstack.conf"),
        (before.replace("relay.sock", "other.sock"), "the proxy called the relay", "SPANK"),
    ):
        rig.cluster.rewrite(_PLUGSTACK, text)
        found = overspill_json(rig, "doctor", "--user", "alice", "--timeout", "10")
        assert not found["ok"]
        last = found["hops"][-1]
        assert (last["name"], last["is_reached"]) == (hop, False)
        assert remedy in last["remedy"]
    rig.cluster.rewrite(_PLUGSTACK, before)
    rig.set_policy("overspill_mode=off")
    wait_until(
        lambda: overspill_json(rig, "status")["mode"] == "off", timeout_s=30, what="the router to see the policy"
    )
    done = overspill(rig, "doctor", "--user", "alice")
    assert done.returncode == 1
    assert "the job stayed in batch: mode_off" in done.stdout
    assert overspill(rig, "doctor").returncode == 2
    assert overspill(rig, "doctor", "--user", "alice", user="bob").returncode == 1
    assert not list(rig.cluster.path("/home/alice").glob("overspill-doctor-*"))


def test_slurm_takes_the_lines_that_nodes_prints(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    lines = overspill_json(rig, "nodes")["slurm_conf"]
    kept = [
        line
        for line in rig.cluster.path(_CONF).read_text().splitlines()
        if not line.startswith(("NodeName=ovs1 ", "PartitionName=overspill "))
    ]
    rig.cluster.rewrite(_CONF, "\n".join([*kept, *lines]) + "\n")
    for name in ("slurmctld", "slurmd@ovs1"):
        rig.cluster.daemon(name).stop()
    for name in ("slurmctld", "slurmd@ovs1"):
        rig.cluster.daemon(name).start()
    node = rig.cluster.run(["scontrol", "--oneliner", "show", "node", "ovs1"], check=True).stdout
    assert " CPUTot=8 " in node
    assert " RealMemory=16384 " in node
    wait_until_diverting(rig)
    job = submit_diverted(rig, _HELLO)
    rig.wait_for_state(job, "COMPLETED", timeout_s=60)
    assert rig.output(job) == b"hello from site\n"
