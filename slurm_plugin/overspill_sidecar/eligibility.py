"""Jobs that are never diverted, whatever the queue looks like. Pure."""

from __future__ import annotations

from collections.abc import Callable

from overspill.v1.router_pb2 import DecideRequest

#: (stable reason, whether it holds for the job at Unix time `now_s`). The first that holds is the answer.
_NEVER_DIVERTED: tuple[tuple[str, Callable[[DecideRequest, float], bool]], ...] = (
    ("interactive", lambda job, _: not job.has_script),
    ("option_never", lambda job, _: job.overspill_option == "never"),
    ("option_unknown", lambda job, _: job.overspill_option not in {"", "auto", "never", "always"}),
    ("heterogeneous", lambda job, _: job.is_het),
    ("scrontab", lambda job, _: job.is_cron),
    ("held", lambda job, _: job.is_held),
    ("begin_time", lambda job, now_s: job.begin_time_s > now_s),
    ("dependency", lambda job, _: bool(job.dependency)),
    ("reservation", lambda job, _: bool(job.reservation)),
    ("node_list", lambda job, _: bool(job.required_nodes)),
    ("burst_buffer", lambda job, _: bool(job.burst_buffer)),
    ("licence", lambda job, _: bool(job.licenses)),
    ("feature", lambda job, _: bool(job.features)),
    ("gres", lambda job, _: bool(job.tres)),
    ("container", lambda job, _: bool(job.container)),
    ("exclusive", lambda job, _: job.is_exclusive),
    ("all_memory", lambda job, _: job.asks_all_memory),
    ("odd_option", lambda job, _: bool(job.odd_options)),
    ("several_nodes", lambda job, _: job.min_nodes > 1 or 0 < job.tasks_per_node < job.num_tasks),
)


def why_never_diverted(job: DecideRequest, now_s: float) -> str | None:
    """Return the stable word for why this job always stays local, None if nothing in its request says so.

    `now_s` is Unix time: a begin time that has passed holds nothing back.
    """
    return next((reason for reason, holds in _NEVER_DIVERTED if holds(job, now_s)), None)
