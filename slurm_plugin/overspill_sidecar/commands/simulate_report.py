"""What `overspill simulate` prints, for a person and for a program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from overspill.cli.output import count, local_time, print_facts, print_line, print_table, styled, whole_duration
from overspill_sidecar.commands.history_file import History
from overspill_sidecar.policy import Mode
from overspill_sidecar.records.reasons import sentence
from overspill_sidecar.simulation.remote import RemoteSite
from overspill_sidecar.simulation.rules import ignored_words, partitions_without_jobs
from overspill_sidecar.simulation.tally import Tally
from overspill_sidecar.simulation.trial import Trial, TrialResult, Way, WayResult

#: Groups that fit a screen; JSON has all.
_SHOWN_GROUPS = 20
#: Mean waits that differ by this factor are told of.
_FAR_APART = 2
#: 1990: a log whose times are before that counts from its own beginning.
_FIRST_DATE_S = 631152000.0
_HOUR_S = 3600
_DIVERTED_COLUMNS = ["LATE", "NEEDLESS", "MISSED"]
_WAY_COLUMNS = ["", "DIVERTED", "", *_DIVERTED_COLUMNS, "TOO LONG", "MEAN WAIT", "MEDIAN", "95 %", "SAVED IN ALL"]
_GROUP_COLUMNS = ["JOBS", "DIVERTED", *_DIVERTED_COLUMNS, "MEAN WAIT", "WITHOUT", "SAVED IN ALL", "CPU-HOURS AWAY"]


@dataclass(frozen=True, slots=True)
class Report:
    """A trial and what came of it."""

    history: History
    words: str
    trial: Trial
    result: TrialResult
    has_trees: bool

    @property
    def is_dated(self) -> bool:
        """Whether the history's times are dates."""
        return self.trial.workload.start_s >= _FIRST_DATE_S

    def groups(self, by: str) -> Mapping[str, Tally]:
        """Return the table by "partition", "account" or "user"."""
        found = {
            "partition": self.result.by_partition,
            "account": self.result.by_account,
            "user": self.result.by_user,
        }
        return found[by]


def print_report(report: Report, by: str) -> None:
    """Print what a person wants to know; a note of what is doubtful stands at the end."""
    result = report.result
    print_facts(dict(_facts(report)))
    print_line()
    print_table(_WAY_COLUMNS, [_way_cells(way) for way in result.ways])
    print_line()
    for line in _needs(report):
        print_line(line)
    print_line()
    shown = list(report.groups(by).items())[:_SHOWN_GROUPS]
    print_table([by.upper(), *_GROUP_COLUMNS], [_group_cells(name, group) for name, group in shown])
    if left_out := len(report.groups(by)) - len(shown):
        print_line(f"and {left_out} more, which --json has")
    print_line()
    print_table(
        ["JOBS", "WHY THEY WENT OR STAYED", ""],
        [[f"{jobs:,}", reason, sentence(reason)] for reason, jobs in result.reasons.items()],
    )
    for note in _notes(report):
        print_line(styled(f"! {note}", "yellow"))


def as_dict(report: Report) -> dict[str, object]:
    """Return all of it as `--json` prints it: times in seconds, dates in Unix seconds or from the log's beginning."""
    trial, result, workload = report.trial, report.result, report.trial.workload
    return {
        "history": {
            "name": report.history.name,
            "jobs": len(workload.jobs),
            "start_s": workload.start_s,
            "end_s": workload.end_s,
            "is_dated": report.is_dated,
            "never_ran": workload.never_ran,
            "still_waiting": workload.waiting,
            "too_large": workload.too_large,
            "bad_lines": report.history.bad_lines,
            "recorded_mean_wait_s": result.recorded_mean_wait_s,
            "recorded_median_wait_s": result.recorded_median_wait_s,
        },
        "cluster": {
            "is_simulated": not trial.is_history,
            "cpus": {name or "shared": cpus for name, cpus in trial.sizes.cpus.items()},
        },
        "sites": [asdict(site) for site in trial.sites],
        "policy": {
            "words": report.words,
            "mode": trial.policy.mode.value,
            "ignored": [asdict(ignored) for ignored in ignored_words(trial.policy, workload)],
        },
        "warm_up": trial.warm_up,
        "late_every_s": None if math.isinf(trial.late_every_s) else trial.late_every_s,
        "has_trees": report.has_trees,
        "ways": {way.way.value: _way_as_dict(way) for way in result.ways},
        "reasons": dict(result.reasons),
        "by_partition": {name: _tally_as_dict(group) for name, group in result.by_partition.items()},
        "by_account": {name: _tally_as_dict(group) for name, group in result.by_account.items()},
        "by_user": {name: _tally_as_dict(group) for name, group in result.by_user.items()},
        "by_site": {name: _tally_as_dict(group) for name, group in result.by_site.items()},
        "spans": [asdict(span) for span in result.spans],
        "notes": list(_notes(report)),
    }


def _way_as_dict(way: WayResult) -> dict[str, object]:
    return {
        **_tally_as_dict(way.tally),
        "median_wait_s": way.median_wait_s,
        "p95_wait_s": way.p95_wait_s,
        "remote": asdict(way.need),
    }


def _tally_as_dict(tally: Tally) -> dict[str, object]:
    return {
        **asdict(tally),
        "saved_s": tally.saved_s,
        "mean_wait_s": tally.mean_wait_s,
        "never_mean_wait_s": tally.never_mean_wait_s,
    }


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    trial, result, workload = report.trial, report.result, report.trial.workload
    yield "history", f"{report.history.name}: {_jobs(len(workload.jobs))} that ran, {_period(report)}"
    counted = result.of(Way.POLICY).tally.jobs
    yield "counted", f"the last {_jobs(counted)}; before these the cluster fills and the wait model learns"
    yield (
        "cluster",
        "; ".join(_pools(trial)) + (", waits as recorded" if trial.is_history else ", first come, backfill"),
    )
    never = result.of(Way.NEVER)
    recorded = (
        f"mean {whole_duration(result.recorded_mean_wait_s)}, median {whole_duration(result.recorded_median_wait_s)}"
    )
    if trial.is_history:
        yield "waits", f"{recorded}, as recorded"
    else:
        simulated = f"mean {whole_duration(never.tally.mean_wait_s)}, median {whole_duration(never.median_wait_s)}"
        yield "waits", f"{simulated}, if nothing is diverted; recorded were {recorded}"
    yield "sites", "; ".join(map(_site, trial.sites))
    yield "policy", report.words
    looks = "never" if math.isinf(trial.late_every_s) else f"every {whole_duration(trial.late_every_s)}"
    yield "router", f"looks again at jobs that wait {looks}; wait model {_trees(report)}"


def _trees(report: Report) -> str:
    return "with boosted trees" if report.has_trees else "without boosted trees"


def _jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"


def _period(report: Report) -> str:
    workload = report.trial.workload
    if report.is_dated:
        return f"{local_time(workload.start_s)} to {local_time(workload.end_s)}"
    return f"within {whole_duration(workload.end_s - workload.start_s)}"


def _pools(trial: Trial) -> Iterator[str]:
    for name, cpus in trial.sizes.cpus.items():
        shared = "all partitions" if len(trial.sizes.cpus) == 1 else "the other partitions"
        yield f"{name or shared}: {cpus:,} CPUs"


def _site(site: RemoteSite) -> str:
    cpus = "unlimited" if site.cpus is None else f"{site.cpus:,}"
    slot = f" in slots of {site.slot_cpus:,}" if site.slot_cpus else ""
    price = f", {site.price:g} for a CPU-hour" if site.price else ""
    return f"{site.partition}: {cpus} CPUs{slot}, {whole_duration(site.overhead_s)} before a job begins{price}"


def _way_cells(way: WayResult) -> list[str]:
    tally = way.tally
    return [
        way.way.value,
        f"{tally.diverted:,}",
        _share(tally.diverted, tally.jobs),
        f"{tally.late:,}",
        f"{tally.needless:,}",
        f"{tally.missed:,}",
        f"{tally.over_threshold:,}",
        whole_duration(tally.mean_wait_s),
        whole_duration(way.median_wait_s),
        whole_duration(way.p95_wait_s),
        _saved(tally),
    ]


def _group_cells(name: str, tally: Tally) -> list[str]:
    return [
        name or "-",
        f"{tally.jobs:,}",
        f"{tally.diverted:,}",
        f"{tally.late:,}",
        f"{tally.needless:,}",
        f"{tally.missed:,}",
        whole_duration(tally.mean_wait_s),
        whole_duration(tally.never_mean_wait_s),
        _saved(tally),
        f"{tally.diverted_cpu_hours:,.0f}",
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _saved(tally: Tally) -> str:
    """Return the wait that all jobs were spared together; others may wait longer than without."""
    sign = "-" if tally.saved_s < 0 else ""
    return f"{sign}{abs(tally.saved_s) / _HOUR_S:,.0f} h"


def _needs(report: Report) -> Iterator[str]:
    way, sites = report.result.of(Way.POLICY), report.trial.sites
    need, tally = way.need, way.tally
    yield (
        f"At the sites: {need.peak_cpus:,} CPUs at most ({_jobs(need.peak_jobs)} at once), {need.p95_cpus:,} or fewer "
        f"for 95 % of the time, {need.mean_cpus:,.0f} on average; {tally.diverted_cpu_hours:,.0f} CPU-hours of jobs"
    )
    has_prices = any(site.price for site in sites)
    if len(sites) > 1 or has_prices:
        for name, at_site in report.result.by_site.items():
            cost = f", which cost {at_site.cost:,.2f}" if has_prices else ""
            late = f"{at_site.late:,} of them late, " if at_site.late else ""
            yield f"  {name}: {_jobs(at_site.diverted)}, {late}{at_site.diverted_cpu_hours:,.0f} CPU-hours{cost}"


def _notes(report: Report) -> Iterator[str]:
    trial, workload = report.trial, report.trial.workload
    never_mean_s = report.result.of(Way.NEVER).tally.mean_wait_s
    if (
        not report.result.recorded_mean_wait_s / _FAR_APART
        <= never_mean_s
        <= report.result.recorded_mean_wait_s * _FAR_APART
    ):
        yield (
            "the simulated cluster waits far from as long as the recorded one: say its size (--local-cpus), or take "
            "waits as they were (--recorded-waits)"
        )
    for ignored in ignored_words(trial.policy, workload):
        yield f"{ignored.word} is ignored: {ignored.reason}"
    there = ", ".join(workload.partitions)
    for name in partitions_without_jobs(trial.policy, workload):
        yield f"overspill_from names {name}, but no job in the history is of it: there are {there}"
    if trial.policy.mode is Mode.SHADOW:
        yield "mode shadow: DIVERTED are those that would have gone; all stayed"
    if workload.never_ran or workload.waiting:
        yield f"left out: {_jobs(workload.never_ran)} that never started, {_jobs(workload.waiting)} that still waited"
    if workload.too_large:
        yield f"left out: {_jobs(workload.too_large)} that are larger than the cluster is said to be (--local-cpus)"
    if report.history.bad_lines:
        yield f"{count(report.history.bad_lines, 'line')} could not be read"
