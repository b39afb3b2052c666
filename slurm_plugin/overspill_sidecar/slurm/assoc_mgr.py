"""The question for associations and QOS, and how to read the answer. Pure.

Source: slurm_print_assoc_mgr_info_msg() of Slurm 22.05, seen there, on 24.11 and 26.05: each record begins with
`ClusterName=` or `QOS=`; a limit is `name=limit(used)`, where the limit `N` is none; a QOS has sections of users and
accounts that use it now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from overspill.errors import UnavailableError
from overspill_sidecar.accounting import Accounting, Association, Counted, Limits, Qos

_RECORD = re.compile(r"^(?=ClusterName=|UserName=|QOS=)", re.MULTILINE)
_PAIR = re.compile(r"(?:^|\s)([A-Z]\w*)=(\S*)")
_COUNT = re.compile(r"(?:([\w/:.-]+)=)?([\d.]+|N)\(([\d.]+)\)")
#: Begins what a section says of one user or account; what "No Users" begins has no limits.
_HOLDER = re.compile(r"^ {6}(?=\S)", re.MULTILINE)
_NAME_AND_ID = re.compile(r"(.*)\((\d+)\)")
#: Counts of jobs: what is called how in associations, in a QOS, and in its sections.
_COUNTS = {
    "jobs": ("GrpJobs", "MaxJobs", "MaxJobsPA", "MaxJobsPU"),
    "submit": ("GrpSubmitJobs", "MaxSubmitJobs", "MaxSubmitJobsPA", "MaxSubmitJobsPU"),
    "wall": ("GrpWall",),
}
_TRES = {
    "tres": ("GrpTRES", "MaxTRESPA", "MaxTRESPU"),
    "minutes": ("GrpTRESMins",),
    "running": ("GrpTRESRunMins",),
}


def accounting_argv() -> list[str]:
    return ["scontrol", "show", "assoc_mgr"]


def parse_accounting(text: str) -> Accounting:
    """Read what `accounting_argv` prints.

    Raises:
        UnavailableError: if it is not intelligible.
    """
    associations: dict[tuple[str, int | None, str], Association] = {}
    default_accounts: dict[int, str] = {}
    qos: dict[str, Qos] = {}
    try:
        for record in _RECORD.split(text)[1:]:
            if record.startswith("QOS="):
                found = _qos(record)
                qos[found.name] = found
            elif record.startswith("UserName="):
                values = _pairs(record)
                if (user_id := _id(values["UserName"])) is not None:
                    default_accounts[user_id] = values.get("DefAccount", "")
            else:
                association = _association(record)
                associations[association.account, association.user_id, association.partition] = association
    except (KeyError, ValueError) as error:
        raise UnavailableError(f"scontrol show assoc_mgr cannot be read: {error!r}") from error
    return Accounting(associations, default_accounts, qos)


def _association(record: str) -> Association:
    values = _pairs(record)
    user_id = _id(values["UserName"])
    if values["UserName"] and user_id is None:
        raise ValueError(f"no uid in {values['UserName']!r}")
    parent = _NAME_AND_ID.fullmatch(values.get("ParentAccount", ""))
    return Association(
        account=values["Account"],
        user_id=user_id,
        partition=values["Partition"],
        parent_account=parent[1] if parent else "",
        is_default=values.get("DefAssoc") == "Yes",
        # What an account says per user is only what its users' associations begin with.
        limits=_limits(values if user_id is not None else {**values, "MaxJobs": "", "MaxSubmitJobs": ""}),
    )


def _qos(record: str) -> Qos:
    whole, _, holders = record.partition("Account Limits")
    accounts, _, users = holders.partition("User Limits")
    values = _pairs(whole)
    name = _NAME_AND_ID.fullmatch(values["QOS"])
    return Qos(
        name=name[1] if name else values["QOS"],
        limits=_limits(values),
        users={user_id: limits for holder, limits in _sections(users) if (user_id := _holder_id(holder)) is not None},
        accounts=dict(_sections(accounts)),
    )


def _sections(text: str) -> Iterator[tuple[str, Limits]]:
    for part in _HOLDER.split(text)[1:]:
        holder, _, rest = part.partition("\n")
        yield holder.strip(), _limits(_pairs(rest))


def _limits(values: Mapping[str, str]) -> Limits:
    groups = {
        kind: counted
        for kind, names in _COUNTS.items()
        for name in names
        for _, counted in _counts(values.get(name, ""))
    }
    groups |= {
        f"{kind}/{tres}": counted
        for kind, names in _TRES.items()
        for name in names
        for tres, counted in _counts(values.get(name, ""))
    }
    return Limits(
        groups=groups,
        job_tres=_amounts(values.get("MaxTRESPJ", "")),
        node_tres=_amounts(values.get("MaxTRESPN", "")),
        job_minutes=_amounts(values.get("MaxTRESMinsPJ", "")),
        wall_min=float(values["MaxWallPJ"]) if values.get("MaxWallPJ") else None,
    )


def _counts(text: str) -> Iterator[tuple[str, Counted]]:
    """Yield the limits that are set, by TRES (empty for a plain count)."""
    for name, limit, used in _COUNT.findall(text):
        if limit != "N":
            yield name, Counted(float(limit), float(used))


def _amounts(text: str) -> dict[str, float]:
    return {name: float(amount) for name, _, amount in (item.partition("=") for item in text.split(",")) if amount}


def _pairs(text: str) -> dict[str, str]:
    return dict(_PAIR.findall(text))


def _holder_id(holder: str) -> int | None:
    """Return whose section it is: 22.05 calls a user `2001`, 24.11 and 26.05 `alice(2001)`."""
    return int(holder) if holder.isdecimal() else _id(holder)


def _id(text: str) -> int | None:
    match = _NAME_AND_ID.fullmatch(text)
    return int(match[2]) if match else None
