"""Jobs that are never diverted, whatever the queue looks like, and those that the policy keeps. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.decision.shape import Shape, nodes_of
from overspill_sidecar.policy import Policy

#: Values of `--overspill` that leave it to the router whether the job goes, and all that are no site's name.
LEFT_TO_US = frozenset({"", "auto"})
SITE_CHOICES = LEFT_TO_US | {"never", "always"}
#: Features that a job wants all of. What else --constraint can say (or, counts, groups) is not for one node to answer.
_ALL_OF = re.compile(r"[\w.:-]+(?:[&,][\w.:-]+)*")

#: (stable reason, whether it holds for the job at Unix time `now_s`). The first that holds is the answer.
_NEVER_DIVERTED: tuple[tuple[str, Callable[[DecideRequest, float], bool]], ...] = (
    ("interactive", lambda job, _: not job.has_script),
    ("option_never", lambda job, _: job.overspill_option == "never"),
    ("heterogeneous", lambda job, _: job.is_het),
    ("scrontab", lambda job, _: job.is_cron),
    ("held", lambda job, _: job.is_held),
    ("begin_time", lambda job, now_s: job.begin_time_s > now_s),
    ("dependency", lambda job, _: bool(job.dependency)),
    ("reservation", lambda job, _: bool(job.reservation)),
    ("node_list", lambda job, _: bool(job.required_nodes)),
    ("burst_buffer", lambda job, _: bool(job.burst_buffer)),
    ("licence", lambda job, _: bool(job.licenses)),
    ("container", lambda job, _: bool(job.container)),
    ("exclusive", lambda job, _: job.is_exclusive),
    ("all_memory", lambda job, _: job.asks_all_memory),
    ("odd_option", lambda job, _: bool(job.odd_options)),
)


def why_never_diverted(job: DecideRequest, now_s: float) -> str | None:
    """Return the stable word for why this job always stays local, None if nothing in its request says so.

    `now_s` is Unix time: a begin time that has passed holds nothing back.
    """
    return next((reason for reason, holds in _NEVER_DIVERTED if holds(job, now_s)), None)


def features_of(job: DecideRequest) -> frozenset[str] | None:
    """Return the features all of which a node must have for the job; None if its request says something else."""
    if not job.features:
        return frozenset()
    return frozenset(re.split("[&,]", job.features)) if _ALL_OF.fullmatch(job.features) else None


def why_policy_keeps(
    job: DecideRequest,
    shape: Shape,
    own: Sequence[str],
    policy: Policy,
    account: str,
    user_ids: Mapping[str, int],
) -> str | None:
    """Return the stable reason why the admin's words keep this job local, None if they do not.

    Args:
        job: the request.
        shape: what it comes down to.
        own: its own partitions; it must be allowed to leave each of them.
        policy: the words.
        account: the account it will have; empty if nobody knows.
        user_ids: of the users whom words name.
    """
    features = features_of(job)
    for partition in own:
        refusals = (
            ("several_nodes", nodes_of(job) > policy.max_nodes(partition)),
            ("policy_user", not policy.allows_user(job.user_id, partition, user_ids)),
            ("policy_account", not policy.allows_account(account, partition)),
            ("policy_gpus", _exceeds(shape.gpus, policy.max_gpus(partition))),
            ("policy_time", _exceeds(shape.time_limit_s, policy.max_time_s(partition))),
            (
                "feature",
                features is None or not all(policy.maps_feature(feature, partition) for feature in features),
            ),
        )
        if reason := next((reason for reason, holds in refusals if holds), None):
            return reason
    return None


def _exceeds(wanted: int | None, most: int | None) -> bool:
    """Tell whether it is over the limit; None is unlimited."""
    return most is not None and (wanted is None or wanted > most)
