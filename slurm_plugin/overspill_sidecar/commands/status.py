"""`overspill status`: one screen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import click
from google.protobuf.json_format import MessageToDict

from overspill.cli.output import (
    Cell,
    count,
    duration,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    styled,
)
from overspill.errors import NotPermittedError, OverspillError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import Job, Node, Snapshot
from overspill_sidecar.commands import cluster as slurm
from overspill_sidecar.commands.cluster import Cluster

_MOST_REASONS = 4


@dataclass(slots=True)
class _Picture:
    """What could be learned, and what could not."""

    cluster: Cluster
    router: pb.RouterStatusResponse | None = None
    relay: pb.RelayStatusResponse | None = None
    snapshot: Snapshot | None = None
    problems: list[str] = field(default_factory=list)
    #: What the caller may not see.
    notes: list[str] = field(default_factory=list)

    def learn(self, what: Callable[[], None]) -> None:
        try:
            what()
        except NotPermittedError as error:
            self.notes.append(error.reason)
        except OverspillError as error:
            self.problems.append(error.reason)

    @property
    def diverted(self) -> list[Job]:
        jobs = self.snapshot.jobs if self.snapshot else ()
        return [job for job in jobs if self.cluster.site_of(job)]

    @property
    def virtual_nodes(self) -> list[tuple[str, Node]]:
        """Return (site, node) pairs."""
        if self.snapshot is None:
            return []
        pairs = self.cluster.site_by_partition.items()
        return [(site, node) for partition, site in pairs for node in self.snapshot.nodes_of(partition)]


@click.command(short_help="Sites, virtual nodes and policy at a glance.")
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
@json_option
def status(*, watch: bool, as_json: bool) -> None:
    """Show policy, sites, virtual nodes and diverted jobs at a glance.

    Root and SlurmUser see everything; others what Slurm shows them. Exit code 1 if there are problems.

    \b
    Examples:
      overspill status
      overspill status --watch
      overspill status --json | jq '.sites[] | select(.is_reachable | not)'
    """
    while watch:
        picture = _look()
        click.clear()
        _print(picture)
        time.sleep(2)
    picture = _look()
    if as_json:
        print_json(_as_json(picture))
    else:
        _print(picture)
    raise SystemExit(1 if picture.problems else 0)


def _look() -> _Picture:
    picture = _Picture(Cluster.here())
    if picture.cluster.problem:
        picture.problems.append(picture.cluster.problem)

    def ask_slurm() -> None:
        picture.snapshot = slurm.snapshot()

    def ask_router() -> None:
        picture.router = picture.cluster.daemons.router_status()

    def ask_relay() -> None:
        picture.relay = picture.cluster.daemons.relay_status()

    for ask in (ask_slurm, ask_router, ask_relay):
        picture.learn(ask)
    if picture.router is not None:
        picture.problems += _router_problems(picture.router)
    picture.problems += [
        f"node {node.name} of {site} takes no job: {node.reason or 'sinfo -R says why'}"
        for site, node in _unusable(picture)
    ]
    return picture


def _router_problems(router: pb.RouterStatusResponse) -> list[str]:
    problems = [f"slurm.conf: {problem}" for problem in router.problems]
    problems += [f"site {site.name}: {site.reason}" for site in router.sites if not site.is_reachable]
    if not router.is_queue_fresh:
        problems.append("the router has no fresh picture of the queue, so all jobs run locally: does slurmctld answer?")
    if router.accounts_problem:
        problems.append(f"jobs of accounts that a word limits stay local: {router.accounts_problem}")
    if router.records_problem:
        problems.append(f"decisions are forgotten at the router's end: {router.records_problem}")
    return problems


def _unusable(picture: _Picture) -> list[tuple[str, Node]]:
    return [(site, node) for site, node in picture.virtual_nodes if not node.is_usable]


def _print(picture: _Picture) -> None:
    print_facts(_facts(picture))
    if picture.router is not None:
        _print_sites(picture.router)
        _print_accounts(picture.router)
    if picture.virtual_nodes:
        print_line()
        rows = [
            [node.name, site, _state(is_good=node.is_usable, good="up", bad="takes no job"), _used(node)]
            for site, node in picture.virtual_nodes
        ]
        print_table(["VIRTUAL NODE", "SITE", "STATE", "CPUS ALLOCATED"], rows)
    if picture.problems and picture.snapshot is not None:
        print_line()
    for problem in picture.problems:
        print_line(styled(f"! {problem}", "yellow"))
    for note in picture.notes:
        print_line(styled(f"  {note}", "dim"))


def _facts(picture: _Picture) -> dict[str, Cell]:
    facts: dict[str, Cell] = {}
    if picture.snapshot is not None:
        facts["cluster"] = picture.snapshot.config.cluster_name
    if (router := picture.router) is not None:
        facts["mode"] = styled(router.mode, "bold")
        words = [f"{word.word}={word.value}" for word in router.words if word.word != "overspill_mode"]
        facts["policy"] = " ".join(words) or "no words in slurm.conf"
        age = f"queue seen {duration(router.queue_age_s)} ago" if router.HasField("queue_age_s") else "queue never seen"
        if router.queue_reader:
            age += f" by {router.queue_reader}"
        facts["router"] = f"{router.version}, up {_since(router.started_at_ms)}, {age}"
    if (relay := picture.relay) is not None:
        facts["relay"] = f"{relay.version}, up {_since(relay.started_at_ms)}, {count(relay.jobs, 'job')} connected"
    if picture.snapshot is not None:
        states = Counter("pending" if job.is_pending else job.state.lower() for job in picture.diverted)
        facts["diverted"] = ", ".join(f"{jobs} {state}" for state, jobs in states.most_common()) or "no job now"
    if picture.router is not None:
        facts["decisions"] = _decisions(picture.router)
        if picture.router.learned_after_jobs:
            facts["waits"] = _waits(picture.router)
        if picture.router.late_changes:
            facts["while pending"] = ", ".join(
                f"{it.count} {it.change.replace('_', ' ')} ({it.site})" for it in picture.router.late_changes
            )
    return facts


def _decisions(router: pb.RouterStatusResponse) -> str:
    """Return how many decisions of each verdict there were, with the most frequent reasons."""
    parts = []
    for verdict, name in (("DIVERT", "diverted"), ("LOCAL", "local"), ("REFUSE", "refused")):
        made = [decision for decision in router.decisions if decision.verdict == verdict]
        if made:
            reasons = ", ".join(f"{decision.reason} {decision.count}" for decision in made[:_MOST_REASONS])
            parts.append(f"{sum(decision.count for decision in made)} {name} ({reasons})")
    return "; ".join(parts) or "none since the router's start"


def _waits(router: pb.RouterStatusResponse) -> str:
    seen, needed = router.wait_model_jobs, router.learned_after_jobs
    if seen >= needed:
        return f"predicted by what {count(seen, 'job')} taught"
    return f"planned from time limits until {needed} jobs were seen ({seen} so far)"


def _print_sites(router: pb.RouterStatusResponse) -> None:
    print_line()
    rows = [
        [
            site.name,
            site.partition,
            site.agent,
            _state(is_good=site.is_reachable, good="reachable", bad="unreachable"),
            _since(site.since_ms),
            f"{site.free_cpus} of {site.total_cpus}",
            f"{site.free_memory_mib // 1024} of {site.total_memory_mib // 1024} GiB",
            str(site.promised_cpus),
        ]
        for site in router.sites
    ]
    print_table(["SITE", "PARTITION", "AGENT", "STATE", "FOR", "CPUS FREE", "MEMORY FREE", "CPUS PROMISED"], rows)


def _print_accounts(router: pb.RouterStatusResponse) -> None:
    if not router.accounts:
        return
    print_line()
    rows = [
        [
            use.account or "(none)",
            str(use.jobs) + (f" of {use.max_jobs}" if use.HasField("max_jobs") else ""),
            f"{use.cpu_hours:.1f}" + (f" of {use.max_cpu_hours}" if use.HasField("max_cpu_hours") else ""),
        ]
        for use in router.accounts
    ]
    print_table(["ACCOUNT", "DIVERTED JOBS", "CPU-HOURS TODAY"], rows)


def _state(*, is_good: bool, good: str, bad: str) -> Cell:
    return styled(good, "green") if is_good else styled(bad, "bold red")


def _used(node: Node) -> str:
    return f"{node.cpus_allocated} of {node.cpus}"


def _since(unix_ms: int) -> str:
    return duration(max(0.0, time.time() - unix_ms / 1000))


def _as_json(picture: _Picture) -> dict[str, object]:
    snapshot, router, relay = picture.snapshot, picture.router, picture.relay
    return {
        "cluster": snapshot.config.cluster_name if snapshot else None,
        "mode": router.mode if router else None,
        "policy": {word.word: word.value for word in router.words} if router else None,
        "router": _daemon(router, queue_age_s=round(router.queue_age_s, 3), queue_reader=router.queue_reader)
        if router
        else None,
        "relay": _daemon(relay, jobs=relay.jobs) if relay else None,
        "sites": [_site(site) for site in router.sites] if router else None,
        "accounts": [_account(use) for use in router.accounts] if router else None,
        "nodes": [
            {"name": node.name, "site": site, "is_usable": node.is_usable, "cpus_allocated": node.cpus_allocated}
            for site, node in picture.virtual_nodes
        ],
        "diverted_jobs": Counter("PENDING" if job.is_pending else job.state for job in picture.diverted),
        "decisions": [
            {"verdict": it.verdict, "reason": it.reason, "count": it.count}
            for it in (router.decisions if router else ())
        ],
        "late_changes": [
            {"site": it.site, "change": it.change, "count": it.count} for it in (router.late_changes if router else ())
        ],
        "waits": {"jobs": router.wait_model_jobs, "learned_after_jobs": router.learned_after_jobs} if router else None,
        "problems": picture.problems,
        "notes": picture.notes,
    }


def _daemon(answer: pb.RouterStatusResponse | pb.RelayStatusResponse, **more: float | str) -> dict[str, object]:
    return {"version": answer.version, "started_at_ms": answer.started_at_ms, **more}


def _account(use: pb.AccountUse) -> dict[str, object]:
    return {
        "account": use.account,
        "jobs": use.jobs,
        "max_jobs": use.max_jobs if use.HasField("max_jobs") else None,
        "cpu_hours": round(use.cpu_hours, 3),
        "max_cpu_hours": use.max_cpu_hours if use.HasField("max_cpu_hours") else None,
    }


def _site(site: pb.SiteStatus) -> dict[str, object]:
    fields = MessageToDict(site, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # JSON of protobuf's has 64-bit numbers as text.
    return {name: int(value) if name.endswith(("_ms", "_mib")) else value for name, value in fields.items()}
