"""Reading Slurm's job records, and seeing early that a job will not get where a test waits for it."""

from __future__ import annotations

import pytest

from tests.rig.slurm_conf import ClusterOptions, policy_words, slurm_conf
from tests.rig.slurm_jobs import dead_end, parse_job

_LINE = (
    "JobId=7 JobName=two words UserId=alice(2001) AllocNode:Sid=cluster:9 ReqB:S:C:T=0:0:*:* CPUs/Task=1 "
    'Command=/home/alice/a b.sh x=1 AdminComment={"overspill":{"site":"s"}, "n": "JobName=fake"}  Power=\n'
)


def test_values_with_blanks_and_odd_names_are_read_whole() -> None:
    job = parse_job(_LINE)
    assert job["JobName"] == "two words"
    assert job["Command"] == "/home/alice/a b.sh x=1"
    assert (job["ReqB:S:C:T"], job["CPUs/Task"], job["AllocNode:Sid"]) == ("0:0:*:*", "1", "cluster:9")
    assert job["AdminComment"].startswith('{"overspill":')
    assert job["Power"] == ""


@pytest.mark.parametrize(
    ("state", "reason", "wanted", "is_dead_end"),
    [
        ("COMPLETED", "None", {"COMPLETED"}, False),
        ("COMPLETING", "None", {"COMPLETED"}, False),
        ("FAILED", "NonZeroExitCode", {"COMPLETED"}, True),
        ("COMPLETED", "None", {"RUNNING"}, True),
        ("PENDING", "Priority", {"RUNNING"}, False),
        ("PENDING", "JobHeldAdmin", {"RUNNING"}, True),
        ("PENDING", "JobHeldAdmin", {"PENDING"}, False),
    ],
)
def test_a_state_that_cannot_come_is_seen(state: str, reason: str, wanted: set[str], *, is_dead_end: bool) -> None:
    job = {"JobState": state, "Reason": reason}
    assert (dead_end(job, frozenset(wanted)) is not None) is is_dead_end


def test_policy_words_may_be_separated_either_way_and_keep_their_own_targets() -> None:
    assert policy_words("overspill_mode=on, overspill_to=b") == (
        "overspill_mode=on",
        "overspill_to=b",
        "overspill_from=batch",
        "overspill_explore=0",
    )


def test_slurm_conf_has_a_line_per_node_and_the_policy() -> None:
    text = slurm_conf(ClusterOptions(real_nodes=2), policy_words("overspill_mode=off"), job_submit=True, spank=False)
    assert [line.split()[0] for line in text.splitlines() if line.startswith("NodeName")] == [
        "NodeName=c1",
        "NodeName=c2",
        "NodeName=ovs1",
    ]
    assert (
        "SlurmctldParameters=overspill_mode=off,overspill_from=batch,overspill_to=overspill,overspill_explore=0\n"
        in text
    )
    assert "JobSubmitPlugins=lua\n" in text
    assert "PlugStackConfig" not in text
