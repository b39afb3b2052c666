"""What the stable words of decisions mean, in sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_DIVERTED: Mapping[str, str] = {
    "wait_above_threshold": "it would have waited longer at home than the policy allows, and a site could start it now",
    "mode_always": "overspill_mode=always sends every job away that may go",
    "option_always": "the user asked for it with --overspill=always",
    "recalled_needless": "its own partition is likely to start it in time after all",
    "recalled_mode_off": "Overspill was turned off (overspill_mode=off), and it had not started at its site",
    "option_site": "the user asked for this site with --overspill",
}
_LOCAL: Mapping[str, str] = {
    "mode_off": "Overspill is off: overspill_mode=off, or there is no overspill word in slurm.conf",
    "queue_unknown": "the router had no fresh picture of the queue; in doubt a job runs locally",
    "router_error": "the router failed on it; its log says why (action decide_failed)",
    "overspill_partition_named": "the user named an overspill partition himself, so there was nothing to decide",
    "partition_unknown": "it names a partition that slurmctld does not know",
    "partition_not_in_from": "the policy diverts nothing from its partition: overspill_from does not name it",
    "wait_below_threshold": "it was likely to start at home within the time that the policy lets it wait",
    "wait_unknown": "nobody could tell how long it would wait; in doubt a job runs locally",
    "larger_than_own_partition": "it is larger than its whole partition, so its wait says nothing",
    "interactive_in_overspill": "srun and salloc cannot run in an overspill partition, so it was refused",
    "no_site": "no site is configured, or overspill_to names none that all of its partitions may go to, or not the one "
    "that the user named",
    "max_jobs": "as many jobs are diverted as overspill_max_jobs allows",
    "max_jobs_per_account": "as many jobs of its account are diverted as overspill_max_jobs_per_account allows",
    "max_cpu_hours": "its account would have more CPU-hours at the sites today than overspill_max_cpu_hours allows",
    "account_unknown": "accounts' jobs are limited, and nobody could tell which account it will have",
    "use_unknown": "its account's jobs are limited, and what it has used could not be told: overspill status says why",
    "explore": "it would have gone, but a small share stays at random, so that predicted waits can be compared with "
    "real ones (overspill_explore)",
    "policy_gpus": "it asks for more GPUs than overspill_gpus allows",
    "policy_user": "overspill_allow_users or overspill_deny_users keeps its user's jobs here (a denied user whom "
    "the router's host does not know may be anybody)",
    "policy_account": "overspill_allow_accounts or overspill_deny_accounts keeps its account's jobs here",
    "policy_time": "its time limit is longer than overspill_max_time",
    "gpu_default_unclear": "its partition gives CPUs for each GPU, and it says CPUs per task: which counts is unclear",
    "defaults_differ": "its partitions have different defaults, so they cannot be kept at a site",
    "default_is_all_memory": "without --mem it gets the whole memory of its node at home: set DefMemPerCPU",
    "array_unreadable": "its array expression could not be read",
}
_JOB: Mapping[str, str] = {
    "interactive": "only batch scripts are diverted, not srun and salloc",
    "option_never": "the user forbade it with --overspill=never",
    "option_unknown": "its --overspill is no site's name, nor auto, never or always",
    "heterogeneous": "heterogeneous jobs are never diverted",
    "federated": "the cluster is in a federation, so the job may have siblings elsewhere",
    "scrontab": "scrontab's jobs are never diverted",
    "held": "it was submitted held; that wait is its own",
    "begin_time": "it waits for its begin time",
    "dependency": "it waits for another job",
    "reservation": "it asks for a reservation",
    "node_list": "it names or excludes nodes",
    "burst_buffer": "it asks for a burst buffer",
    "licence": "it asks for licences",
    "feature": "it asks for node features (--constraint) that overspill_allow_features does not map",
    "gres": "it asks for generic resources other than a number of GPUs of one type",
    "container": "it asks for a container",
    "exclusive": "it takes whole nodes (--exclusive, or its partition does so)",
    "all_memory": "it asks for all memory of its nodes (--mem=0)",
    "odd_option": "it uses an option that a site cannot honour",
    "several_nodes": "it needs more nodes than overspill_max_nodes",
}
_SITE: Mapping[str, str] = {
    "no_such_site": "overspill_to names a partition that no site has",
    "site_on_trial": "it has failed its jobs, and for a minute no more than 3 jobs at a time are sent there to try it",
    "came_back": "it could not run the job before, which is not sent there again",
    "starts_later": "it could take the job now, but has lately taken longer to start jobs than the chosen site",
    "dearer": "it could take the job now, but is dearer than the chosen site",
    "later_in_order": "it could take the job now, but stands after the chosen site in overspill_to, or in sidecar.toml",
    "site_unreachable": "the agent did not answer",
    "capacity_unknown": "the agent had not told what it has",
    "no_free_slot": "nothing that is large enough was free there",
    "larger_than_node": "the job is larger than any virtual node",
    "larger_than_site": "the job is larger than the site",
    "larger_than_slot": "the job is larger than any of its slots: a job runs on one",
    "gpu_type": "it has no GPUs of the type that the job asks for, or its virtual node does not have them in Gres",
    "site_image": "it does not offer the image that the job names with --overspill-image",
    "site_feature": "it does not know a feature that the job asks for (--constraint)",
    "target_unknown": "slurmctld does not know the site's partition",
    "target_nodes_down": "all its virtual nodes are down or drained",
    "target_down": "its partition is down",
    "target_restricted": "its partition is restricted or exclusive",
    "target_account": "its partition does not take the job's account",
    "target_qos": "its partition does not take the job's QOS",
    "target_time_limit": "the job's time limit is above its partition's",
    "target_time_default": "the job has no time limit, but its partition gives one",
    "target_memory_limit": "the job wants more memory than its partition allows",
    "target_cpu_limit": "the job wants more CPUs than its partition allows",
    "target_nodes_limit": "its partition takes no jobs of so many nodes (MinNodes, MaxNodes)",
    "target_groups": "its partition does not let the user in (AllowGroups, RootOnly)",
    "target_feature": "not all its virtual nodes have the features that the job asks for",
    "target_gpu_default": "its partition would give the job more CPUs for its GPUs than it gets at home",
    "no_association": "accounting knows no association of the user and account for it",
    "association_of_partition": "the user's association names a partition, and Slurm then takes no list of partitions",
    "limit_reached": "a limit of the association or QOS would keep the job waiting there",
    "accounting_unknown": "Slurm enforces accounting, but did not tell what it enforces",
}
_ALL = {**_DIVERTED, **_LOCAL, **_JOB, **_SITE}


def sentence(reason: str) -> str:
    """Return what a decision's reason means. A word of a newer version is returned in words."""
    if reason.startswith("shadow_"):
        return (
            f"overspill_mode=shadow keeps it; otherwise it would have gone: {sentence(reason.removeprefix('shadow_'))}"
        )
    return _ALL.get(reason, reason.replace("_", " "))
