"""`overspill simulate`: what a policy would have done with the jobs of the past."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from overspill.cli.output import console, duration, json_option, print_json, print_line
from overspill.errors import InvalidRequestError, UnavailableError
from overspill_sidecar.commands.completing import policy_words
from overspill_sidecar.commands.history_file import History, Kind, ask_sacct, read_history
from overspill_sidecar.commands.simulate_plot import check_plot, write_plot
from overspill_sidecar.commands.simulate_report import Report, as_dict, print_report
from overspill_sidecar.commands.simulate_sizes import (
    CPUS,
    LOOK_TIME,
    SITE_CPUS,
    SITE_PRICE,
    SITE_TIME,
    Named,
    Priced,
    sites_of,
)
from overspill_sidecar.policy import Policy, parse_policy
from overspill_sidecar.simulation.learned import Learned
from overspill_sidecar.simulation.local import sizes_of, too_large
from overspill_sidecar.simulation.remote import RemoteSite
from overspill_sidecar.simulation.trial import OnWayProgress, Trial, Way, run_trial
from overspill_sidecar.simulation.workload import workload_of
from overspill_sidecar.wait import trees

_GROUPS = ("partition", "account", "user")


@click.command(short_help="What a policy would have done with past jobs.")
@click.argument(
    "file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True)
)
@click.option(
    "--policy",
    "words",
    required=True,
    metavar="WORDS",
    help="Words as in slurm.conf, joined by commas.",
    shell_complete=policy_words,
)
@click.option(
    "--from",
    "kind",
    required=True,
    type=click.Choice(Kind, case_sensitive=False),
    help="Who wrote FILE: sacct, the standard workload format, or jobcomp/filetxt.",
)
@click.option("--since", default="now-30days", show_default=True, help="For sacct without FILE, as sacct takes it.")
@click.option(
    "--remote-cpus",
    type=SITE_CPUS,
    multiple=True,
    metavar="[PARTITION=]CPUS",
    help="CPUs of the site behind an overspill partition, or unlimited.  [default: unlimited]",
)
@click.option(
    "--remote-slot-cpus",
    type=SITE_CPUS,
    multiple=True,
    metavar="[PARTITION=]CPUS",
    help="The most that one job may have there.  [default: all]",
)
@click.option(
    "--remote-overhead",
    type=SITE_TIME,
    multiple=True,
    metavar="[PARTITION=]TIME",
    help="What a job loses there before it begins.  [default: 00:01:00]",
)
@click.option(
    "--remote-price",
    type=SITE_PRICE,
    multiple=True,
    metavar="[PARTITION=]PRICE",
    help="Of a CPU-hour there, as price_per_cpu_hour of sidecar.toml.  [default: 0]",
)
@click.option(
    "--local-cpus",
    type=CPUS,
    multiple=True,
    metavar="[PARTITION=]CPUS",
    help="CPUs of the cluster, or of a partition with nodes of its own.  [default: the most that were in use]",
)
@click.option("--recorded-waits", "is_history", is_flag=True, help="Jobs that stay wait as they did: no simulation.")
@click.option(
    "--late-every",
    type=LOOK_TIME,
    default="00:05:00",
    show_default=True,
    metavar="TIME",
    help="Between two looks at jobs that wait, some of which are let go after all; 0: none.",
)
@click.option(
    "--trees/--no-trees",
    "with_trees",
    default=None,
    help="Boosted trees, too, as in the router: slow.  [default: if lightgbm is installed]",
)
@click.option("--compare", "is_comparing", is_flag=True, help="Beside diverting always, and knowing all run times.")
@click.option(
    "--warm-up",
    type=click.FloatRange(0, 0.9),
    default=0.15,
    show_default=True,
    help="Share of the jobs that are played, but not counted.",
)
@click.option("--by", type=click.Choice(_GROUPS), default="partition", show_default=True, help="Whose table to print.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into a .png or .svg file.")
@click.option("--skip-bad-lines", "is_lenient", is_flag=True, help="Count lines that cannot be read, and go on.")
@json_option
def simulate(**given: Any) -> None:
    """Replay the jobs of FILE and say what a policy would have done: who goes, what it saves, what was needless.

    The cluster at home is simulated from what each job really ran, first come, with backfill, so that jobs that stay
    gain by those that leave. The wait model begins without knowledge and learns from jobs that stay. FILE may be
    compressed by gzip, and - is standard input; without FILE sacct of this host is asked. Nothing is changed anywhere.

    \b
    Examples:
      overspill simulate --policy overspill_from=batch --from sacct
      overspill simulate --policy overspill_wait=01:00:00,overspill_from=batch --from sacct jobs.txt --remote-cpus 512
      overspill simulate --policy overspill_from=batch --from jobcomp jobcomp.log.gz --compare --plot policy.png
      zcat jobs.gz | overspill simulate --policy overspill_from=batch --from sacct - --json
    """
    options = _Options(**given)
    policy = _policy(options.words)
    given_sizes = options.remote_cpus, options.remote_slot_cpus, options.remote_overhead, options.remote_price
    sites = sites_of(policy, *given_sizes)
    trees_are_used = _uses_trees(options.with_trees)
    if options.plot is not None:
        check_plot(options.plot)
    history = _history(options)
    trial = _trial(options, history, policy, sites, with_trees=trees_are_used)
    ways = tuple(Way) if options.is_comparing else (Way.NEVER, Way.POLICY)
    started_at = time.monotonic()
    with _progress(ways, len(trial.workload.jobs)) as tell:
        result = run_trial(trial, ways, tell)
    report = Report(history, options.words, trial, result, has_trees=trees_are_used)
    if options.plot is not None:
        write_plot(report, options.plot)
    if options.as_json:
        print_json(as_dict(report))
    else:
        print_report(report, options.by)
        _print_speed(len(ways) * len(trial.workload.jobs), time.monotonic() - started_at)


@dataclass(frozen=True, slots=True)
class _Options:
    """The command's options and its argument, by their names."""

    file: Path | None
    words: str
    kind: Kind
    since: str
    remote_cpus: Sequence[Named]
    remote_slot_cpus: Sequence[Named]
    remote_overhead: Sequence[Named]
    remote_price: Sequence[Priced]
    local_cpus: Sequence[Named]
    late_every: float
    with_trees: bool | None
    is_history: bool
    is_comparing: bool
    warm_up: float
    by: str
    plot: Path | None
    is_lenient: bool
    as_json: bool


def _policy(words: str) -> Policy:
    """Return the policy in the words: a trial of a policy that is not meant would be worse than none.

    Raises:
        click.BadParameter: if a word is wrong, or if there is none.
    """
    policy, problems = parse_policy([words])
    if not policy.words and not problems:
        raise click.BadParameter("there is no overspill_ word in it: docs/policy.md lists them", param_hint="--policy")
    if problems:
        raise click.BadParameter("\n".join(map(str, problems)), param_hint="--policy")
    return policy


def _history(options: _Options) -> History:
    if options.file is not None:
        return read_history(options.kind, options.file, is_lenient=options.is_lenient)
    if options.kind is not Kind.SACCT:
        raise click.UsageError(f"name the FILE that {options.kind} wrote")
    return ask_sacct(options.since, is_lenient=options.is_lenient)


def _uses_trees(wanted: bool | None) -> bool:  # noqa: FBT001 - an option's value
    """Return whether trees are fitted: by default if they can be.

    Raises:
        UnavailableError: if they are asked for and cannot be.
    """
    if wanted and not trees.are_available():
        raise UnavailableError(f"--trees needs lightgbm: {sys.executable} -m pip install lightgbm")
    return trees.are_available() if wanted is None else wanted


def _trial(
    options: _Options, history: History, policy: Policy, sites: Sequence[RemoteSite], *, with_trees: bool
) -> Trial:
    workload = workload_of(history.jobs)
    given = {name: cpus for name, cpus in options.local_cpus if cpus is not None}
    if not workload.jobs:
        raise InvalidRequestError(f"{history.name}: none of its {len(history.jobs)} jobs ever ran: nothing to replay")
    for name in given:
        if name and name not in workload.partitions:
            there = ", ".join(workload.partitions)
            raise click.BadParameter(f"no job is of partition {name}: there are {there}", param_hint="--local-cpus")
    sizes = sizes_of(workload, given, history.total_cpus)
    fitting = workload.without(too_large(workload, sizes))
    if not fitting.jobs:
        raise InvalidRequestError(f"{history.name}: every job is larger than --local-cpus: nothing to replay")
    return Trial(
        workload=fitting,
        policy=policy,
        sizes=sizes,
        sites=sites,
        is_history=options.is_history,
        warm_up=options.warm_up,
        late_every_s=options.late_every or math.inf,
        model=partial(Learned, sum(sizes.cpus.values()), with_trees=with_trees),
    )


@contextmanager
def _progress(ways: Sequence[Way], jobs: int) -> Iterator[OnWayProgress]:
    """Show on a terminal how far each way is; nowhere else."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = console(is_stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as shown:
        tasks = {way: shown.add_task(way.value, total=jobs) for way in ways}
        yield lambda way, done: shown.update(tasks[way], completed=done)


def _print_speed(jobs: int, seconds: float) -> None:
    print_line(f"replayed {jobs:,} jobs in {duration(seconds)} ({jobs / seconds:,.0f} jobs/s)")
