"""The policy words in slurm.conf, against the partitions and the sites that there are."""

from __future__ import annotations

from collections.abc import Iterator

from overspill.cli.finding import Finding, error, ok, warning
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig
from overspill_sidecar.policy import Mode, parse_policy, unknown_accounts, unknown_partitions, unknown_users
from overspill_sidecar.users import user_ids

_SUBJECT = "slurm.conf: policy"


def look(slurm: Slurm, config: SidecarConfig) -> Iterator[Finding]:
    """Look at each word."""
    policy, problems = parse_policy(slurm.snapshot.config.parameters)
    accounting = slurm.snapshot.accounting
    wrong_accounts = unknown_accounts(policy, accounting.accounts) if accounting else ()
    for problem in (*problems, *unknown_partitions(policy, slurm.snapshot.partitions), *wrong_accounts):
        remedy = "correct it and scontrol reconfigure; until then a router goes by what the word said when it was right"
        yield error(f"slurm.conf: {problem.word}", problem.reason, remedy)
    for problem in unknown_users(policy, user_ids(policy.user_names)):
        what, _, remedy = problem.reason.partition(": ")
        level = error if "deny" in problem.word else warning
        yield level(f"slurm.conf: {problem.word}", what, remedy)
    mode = policy.mode
    if mode is Mode.OFF:
        remedy = "set overspill_mode=shadow, or on, in SlurmctldParameters and scontrol reconfigure"
        yield warning(_SUBJECT, "the mode is off: no job is diverted", remedy)
    elif mode is Mode.SHADOW:
        yield warning(
            _SUBJECT, "the mode is shadow: Overspill decides and records, but diverts nothing", "on, when ready"
        )
    else:
        words = " ".join(f"{key}" for key in sorted(policy.words))
        yield ok(_SUBJECT, f"the mode is {mode}, from {' '.join(policy.from_partitions) or 'no partition'} ({words})")
    if policy.has_budgets and "associations" not in slurm.snapshot.config.enforced:
        what = "Slurm enforces no associations: an account is whatever a user writes, so its limit is no limit"
        yield warning("slurm.conf: limits of accounts", what, "limit users, or all jobs: overspill_max_jobs")
    partitions = {site.partition for site in config.sites}
    for name in policy.to_partitions():
        if name not in partitions:
            what = f"{name} is no site's partition: sidecar.toml has {', '.join(sorted(partitions))}"
            yield error("slurm.conf: overspill_to", what, "name a site's partition, or add the site to sidecar.toml")
