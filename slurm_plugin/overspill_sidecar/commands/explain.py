"""`overspill explain`: why a job went where it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from google.protobuf.json_format import MessageToDict

from overspill.cli.output import json_option, local_time, print_facts, print_json, print_line, styled, whole_duration
from overspill.errors import NotFoundError, OverspillError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import Job
from overspill_sidecar.commands.cluster import Cluster, find_jobs, show_job, trail_facts
from overspill_sidecar.commands.completing import job_ids
from overspill_sidecar.records.reasons import sentence

#: The hook decides before slurmctld stamps the submit time, whole seconds; both clocks are the controller's.
_BEFORE_MS = 3_000
_AFTER_MS = 1_999
_MOST_CANDIDATES = 200
_MOST_EARLIER = 50
_WAIT_MODELS = {"learned": "learned from the waits here", "plan": "planned from requested time limits"}


@dataclass(slots=True)
class _Story:
    """Everything that is known about one job.

    Attributes:
        earlier: decisions about the same job before `decision`, as far as they are known, the last one first.
        certainty: how sure it is that `decision` is this job's: "certain", "likely", "ambiguous" or "none".
        notes: what is not known, and why.
    """

    job: Job
    name: str
    site: str
    decision: pb.DecisionRecord | None = None
    earlier: list[pb.DecisionRecord] = field(default_factory=list)
    certainty: str = "none"
    notes: list[str] = field(default_factory=list)


@click.command(short_help="Why a job went where it did.")
@click.argument("job_id", metavar="JOBID", shell_complete=job_ids)
@json_option
def explain(job_id: str, *, as_json: bool) -> None:
    """Say why job JOBID went where it did, and what that rests on.

    A diverted job carries the name of its decision. A local job carries nothing: its decision is found by user, time,
    name and partition, and how certain that is, is said. Only root and SlurmUser see the router's records; others see
    what the job itself carries.

    \b
    Examples:
      overspill explain 1234
      overspill explain 1234_7        one task of an array
      overspill explain 1234 --json
    """
    found = find_jobs(job_id)
    if not found:
        where = f"see sacct -j {job_id}, and overspill logs {job_id} --events"
        raise NotFoundError(
            f"Slurm does not know job {job_id}: it ended more than MinJobAge ago, or never was; {where}"
        )
    story = _learn(found[0])
    if as_json:
        print_json(_as_json(story))
    else:
        _tell(story)


def _learn(job: Job) -> _Story:
    here = Cluster.here()
    story = _Story(job, show_job(job.name).get("JobName", ""), here.site_of(job))
    try:
        if job.trail is not None:
            _find_by_trail(story, here, job.trail.decision_id)
        else:
            _find_by_likeness(story, here)
    except OverspillError as error:
        story.notes.append(f"the router's records cannot be seen: {error.reason}")
    return story


def _find_by_trail(story: _Story, here: Cluster, decision_id: str) -> None:
    found = here.daemons.decisions(pb.ListDecisionsRequest(decision_id=decision_id))
    if found:
        story.decision, story.certainty = found[0], "certain"
        story.earlier = _before(found[0], here)
    else:
        story.notes.append(f"the router has no record of decision {decision_id} any more; the job's own trail is left")


def _before(decision: pb.DecisionRecord, here: Cluster) -> list[pb.DecisionRecord]:
    """Return the decisions that the job carried before this one, the last one first."""
    earlier: list[pb.DecisionRecord] = []
    while decision.after_decision_id and len(earlier) < _MOST_EARLIER:
        found = here.daemons.decisions(pb.ListDecisionsRequest(decision_id=decision.after_decision_id))
        if not found:
            break
        decision = found[0]
        earlier.append(decision)
    return earlier


def _find_by_likeness(story: _Story, here: Cluster) -> None:
    job = story.job
    submitted_ms = job.submit_time_s * 1000
    request = pb.ListDecisionsRequest(
        user_id=job.user_id, from_ms=submitted_ms - _BEFORE_MS, to_ms=submitted_ms + _AFTER_MS, limit=_MOST_CANDIDATES
    )
    alike = matching(here.daemons.decisions(request), job, story.name)
    if not alike:
        story.notes.append(_why_unknown(here, job))
        return
    story.decision = alike[0]
    reasons = sorted({decision.reason for decision in alike})
    if len(alike) == 1:
        story.certainty = "certain"
    elif len(reasons) == 1:
        story.certainty = "likely"
        story.notes.append(f"{len(alike)} decisions of this user are alike within seconds; all have the same reason")
    else:
        story.certainty = "ambiguous"
        words = ", ".join(reasons)
        story.notes.append(f"{len(alike)} decisions of this user are alike within seconds; their reasons: {words}")


def matching(decisions: Sequence[pb.DecisionRecord], job: Job, name: str) -> list[pb.DecisionRecord]:
    """Return the decisions that may be this local job's, the likeliest first."""
    alike = [
        decision
        for decision in decisions
        if decision.verdict == "LOCAL"
        and decision.job_name == name
        and set(job.partitions) <= set(decision.partition.split(",") if decision.partition else job.partitions)
    ]
    return sorted(alike, key=lambda decision: abs(decision.decided_at_ms / 1000 - job.submit_time_s))


def _why_unknown(here: Cluster, job: Job) -> str:
    status = here.daemons.router_status()
    if job.submit_time_s * 1000 < status.started_at_ms and status.records_problem:
        return "no decision is known: the router was started after it, and keeps no records on disk"
    return (
        "no decision is known: it was submitted with --overspill=never, or slurmctld's hook did not ask"
        " (it pauses for 30 s after a sidecar that did not answer; slurmctld's log says so), or the job was requeued or"
        " changed since"
    )


def _tell(story: _Story) -> None:
    job = story.job
    where = f"at {story.site}" if story.site else "locally"
    verb = {True: "may run", False: "runs"}.get(job.is_pending) if job.is_active or job.is_pending else "ran"
    print_line(styled(f"Job {job.name} of {job.user_name} {verb} {where} ({job.state}).", "bold"))
    if story.decision is not None:
        _tell_decision(story, story.decision)
    elif job.trail is not None:
        facts = trail_facts(job.admin_comment)
        own, wait_s = job.trail.partition, facts.get("wait_s")
        print_line(f"It was submitted to {own} and given to {job.trail.site} by decision {job.trail.decision_id}.")
        if isinstance(wait_s, int):
            wait = f"{_bound(bool(facts.get('wait_is_upper_bound')))}{whole_duration(wait_s)}"
            print_line(f"In {own} it would have waited {wait}.")
    for decision in story.earlier:
        print_line(f"Before, {_changed(decision)}, because {sentence(decision.reason)}.")
    for note in story.notes:
        print_line(styled(f"Note: {note}.", "yellow"))


def _tell_decision(story: _Story, decision: pb.DecisionRecord) -> None:
    if decision.late_change:
        print_line(f"{_changed(decision).capitalize()}.")
    print_line(f"Because {sentence(decision.reason)}.")
    certainty = "" if story.certainty == "certain" else f" ({story.certainty} to be this job's)"
    facts = {
        "decided": f"{local_time(decision.decided_at_ms / 1000)}: {decision.verdict} ({decision.reason}){certainty}",
        "mode": decision.mode,
    }
    if decision.own_partitions:
        facts["partition"] = ", ".join(decision.own_partitions)
    if decision.cpus:
        array = f", {decision.slots} at once" if decision.slots > 1 else ""
        facts["asked for"] = f"{decision.cpus} CPUs, {decision.memory_mib} MiB{array}"
    if decision.HasField("wait_s"):
        facts["would wait"] = f"{_bound(decision.is_wait_upper_bound)}{whole_duration(decision.wait_s)}"
    if decision.HasField("wait_limit_s"):
        facts["may wait"] = whole_duration(decision.wait_limit_s)
    if decision.HasField("exceeds_probability"):
        model = _WAIT_MODELS.get(decision.wait_model, decision.wait_model)
        facts["too long"] = f"with a probability of {decision.exceeds_probability:.2f} ({model})"
    if decision.HasField("budget"):
        facts["account"] = budget_words(decision.budget)
    print_facts(facts)
    for site in decision.sites:
        print_line(f"  {site.name}: {site_words(site, decision)}")


def budget_words(budget: pb.AccountUse) -> str:
    """Return what the account had, may have, and was asked for."""
    parts = []
    if budget.HasField("max_jobs"):
        parts.append(f"{budget.jobs} of {budget.max_jobs} jobs, this one adds {budget.asked_jobs}")
    if budget.HasField("max_cpu_hours"):
        asked = (
            f"{budget.asked_cpu_hours:.1f}" if budget.HasField("asked_cpu_hours") else "no end: it has no time limit"
        )
        parts.append(f"{budget.cpu_hours:.1f} of {budget.max_cpu_hours} CPU-hours of the day, this one adds {asked}")
    return f"{budget.account or '(none)'}: {'; '.join(parts)}"


def _changed(decision: pb.DecisionRecord) -> str:
    """Return what was decided about the job, and when."""
    when = local_time(decision.decided_at_ms / 1000)
    pending = f"while it was pending, after {whole_duration(decision.waited_s)}"
    what = {
        "added": f"it was let go to {decision.site} as well {pending}",
        "recalled": f"it was called back from {decision.site} {pending}",
    }.get(decision.late_change, f"it was decided at its submission: {decision.verdict} {decision.site}".rstrip())
    return f"{what} ({when})"


def site_words(site: pb.SiteAnswer, decision: pb.DecisionRecord) -> str:
    free = f"{site.free_cpus} CPUs and {site.free_memory_mib} MiB were free" if site.is_reachable else "unreachable"
    if site.HasField("delay_s"):
        free += f"; jobs started within {whole_duration(site.delay_s)}"
    if site.price:
        free += f"; {site.price:g} a CPU-hour"
    if site.name == decision.site:
        return f"chosen; {free}"
    return f"{sentence(site.reason)}; {free}" if site.reason else f"not asked; {free}"


def _bound(is_upper: bool) -> str:  # noqa: FBT001 - one fact, one word
    return "at most " if is_upper else ""


def _as_json(story: _Story) -> dict[str, object]:
    job, decision = story.job, story.decision
    fields = MessageToDict(decision, preserving_proto_field_name=True) if decision else None
    return {
        "job_id": job.name,
        "user": job.user_name,
        "state": job.state,
        "partition": ",".join(job.partitions),
        "site": story.site or None,
        "trail": dict(trail_facts(job.admin_comment)) or None,
        "decision": fields,
        "because": sentence(decision.reason) if decision else None,
        "earlier": [
            {"because": sentence(it.reason), **MessageToDict(it, preserving_proto_field_name=True)}
            for it in story.earlier
        ],
        "certainty": story.certainty,
        "notes": story.notes,
    }
