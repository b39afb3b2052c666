"""The small notations that Slurm uses everywhere: times, sizes, lists of hosts and of array tasks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: `INVALID` is how squeue prints a limit of centuries, which any user may ask for (seen on 22.05).
_UNLIMITED = frozenset({"UNLIMITED", "INFINITE", "INVALID"})
_DAYS_TIME = re.compile(r"(\d{1,9})-(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", re.ASCII)
_TIME = re.compile(r"(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", re.ASCII)
_SIZE = re.compile(r"(\d{1,18})(?:\.\d+)?([KMGTP]?)", re.ASCII)
_MIB_PER_UNIT = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}
_ARRAY_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_HOST_RANGE = re.compile(r"([^\[\]]*)\[([0-9,\-]+)\](.*)", re.ASCII)
#: More hosts than any cluster has: a longer list is a mistake, and must not fill the memory.
_MAX_HOSTS = 100_000
#: Of a list that comes from a user.
_MAX_LIST_CHARACTERS = 4096


def parse_duration_s(text: str) -> int:
    """Return seconds from `minutes`, `m:s`, `h:m:s`, `d-h`, `d-h:m` or `d-h:m:s`.

    Source: https://slurm.schedmd.com/sbatch.html#OPT_time. Minutes and seconds above 59 are taken as Slurm takes them.

    Raises:
        ValueError: if the text is none of these.
    """
    if match := _DAYS_TIME.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if match := _TIME.fullmatch(text):
        first, second, third = match.groups()
        if third is not None:
            return (int(first) * 60 + int(second)) * 60 + int(third)
        return int(first) * 60 + int(second or 0)
    raise ValueError(f"{text!r} is no time: write minutes, hh:mm:ss or days-hh:mm:ss")


def parse_time_limit_s(text: str) -> int | None:
    """Return seconds from a time limit as Slurm prints it; None where it sets none.

    Raises:
        ValueError: if the text is neither a time nor a word for "no limit".
    """
    if text.upper() in _UNLIMITED or text in {"NONE", "NOT_SET", "Partition_Limit", "N/A"}:
        return None
    return parse_duration_s(text)


def parse_size_mib(text: str) -> int:
    """Return MiB, rounded up, from a size as Slurm prints it in TRES: `200M`, `16G`, `1.50T`.

    Raises:
        ValueError: if the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no size")
    number, unit = text.rstrip("KMGTP"), match.group(2)
    return -int(-float(number) * _MIB_PER_UNIT[unit] // 1)


def parse_tres(text: str) -> dict[str, str]:
    """Return the counts in a TRES text such as `cpu=2,mem=200M,gres/gpu=1`; what is no `name=count` is passed over."""
    return dict(entry.split("=", 1) for entry in text.split(",") if "=" in entry)


def count_array_tasks(expression: str) -> int:
    """Return how many tasks of an array can run at once: `1-10:2%3` has five, three at once.

    Raises:
        ValueError: if the text is no array expression.
    """
    tasks, _, throttle = expression.strip("[]").partition("%")
    total = 0
    for part in tasks.split(","):
        match = _ARRAY_PART.fullmatch(part)
        if not match:
            raise ValueError(f"{expression!r} is no list of array tasks")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        total += max(0, (last - first) // max(step, 1) + 1)
    return min(total, int(throttle)) if throttle.isdecimal() and int(throttle) else total


def last_array_tasks(expression: str, most: int) -> list[int]:
    """Return the highest task ids of a list such as `1-10:2,17`, the highest first.

    Raises:
        ValueError: if the text is no list of array tasks.
    """
    ids: list[int] = []
    for part in expression.strip("[]").split(",")[::-1]:
        match = _ARRAY_PART.fullmatch(part)
        if not match:
            raise ValueError(f"{expression!r} is no list of array tasks")
        tasks = range(int(match[1]), int(match[2] or match[1]) + 1, max(1, int(match[3] or 1)))
        ids += tasks[::-1][: most - len(ids)]
        if len(ids) >= most:
            break
    return ids


def expand_hosts(expression: str) -> tuple[str, ...]:
    """Return the names in a host list such as `c[01-03,7],ovs1`.

    Raises:
        ValueError: if brackets do not match, or the list is longer than any cluster.
    """
    names: list[str] = []
    for part in _split_outside_brackets(expression):
        for name in _expand_part(part):
            names.append(name)
            if len(names) > _MAX_HOSTS:
                raise ValueError(f"{expression!r} names more than {_MAX_HOSTS} hosts")
    return tuple(names)


def names_host(expression: str, host: str) -> bool:
    """Tell whether a host list names `host`, in time that does not grow with the hosts it names: a user wrote it.

    Raises:
        ValueError: if it is no host list, or longer than anybody writes.
    """
    if len(expression) > _MAX_LIST_CHARACTERS:
        raise ValueError(f"a host list of {len(expression)} characters")
    return any(_part_names(part, host) for part in _split_outside_brackets(expression))


def _part_names(part: str, host: str) -> bool:
    if "[" not in part and "]" not in part:
        return part == host
    match = _HOST_RANGE.fullmatch(part)
    if not match:
        raise ValueError(f"{part!r} is no host list")
    prefix, ranges, rest = match.groups()
    digits = re.match("[0-9]*", host.removeprefix(prefix)) if host.startswith(prefix) else None
    if digits is None:
        return False
    for length in range(1, len(digits[0]) + 1):
        tail = host[len(prefix) + length :]
        if _in_ranges(digits[0][:length], ranges) and (_part_names(rest, tail) if rest else not tail):
            return True
    return False


def _in_ranges(number: str, ranges: str) -> bool:
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"{ranges!r} is no list of numbers")
        is_as_wide = len(number) == max(len(first), len(str(int(number))))
        if is_as_wide and int(first) <= int(number) <= int(last or first):
            return True
    return False


def _split_outside_brackets(expression: str) -> list[str]:
    return [part for part in re.split(r",(?![^\[]*\])", expression) if part]


def _expand_part(part: str) -> Iterator[str]:
    if "[" not in part and "]" not in part:
        yield part
        return
    match = _HOST_RANGE.fullmatch(part)
    if not match:
        raise ValueError(f"{part!r} is no host list")
    prefix, ranges, rest = match.groups()
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"{part!r} is no host list")
        for number in range(int(first), int(last or first) + 1):
            for tail in _expand_part(rest) if rest else ("",):
                yield f"{prefix}{number:0{len(first)}d}{tail}"
