"""Reading files of one record per line: a line that cannot be read is named by its number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from overspill.errors import InvalidRequestError
from overspill_sidecar.history.past_job import PastJob

#: Called with the number of a line that cannot be read, and why.
OnBadLine = Callable[[int, str], None]
#: What Slurm prints instead of a time that there is not.
_NO_TIME = frozenset({"", "Unknown", "None", "N/A", "(null)", "0"})
#: Of a line that is shown to a person.
_SHOWN_CHARACTERS = 80


def read_lines(
    lines: Iterable[tuple[int, str]], parse: Callable[[str], PastJob | None], what: str, on_bad_line: OnBadLine | None
) -> Iterator[PastJob]:
    """Yield what `parse` makes of each numbered line; None is passed over.

    Raises:
        InvalidRequestError: if a line cannot be read and nobody takes note of it.
    """
    for number, line in lines:
        try:
            job = parse(line)
        except ValueError as error:
            if on_bad_line is None:
                shown = line[:_SHOWN_CHARACTERS].rstrip()
                raise InvalidRequestError(f"line {number} is no {what}: {error}: {shown!r}") from error
            on_bad_line(number, str(error))
            continue
        if job is not None:
            yield job


def parse_time_s(text: str) -> float | None:
    """Return Unix seconds from Unix seconds or from this host's local time, as Slurm's commands print them.

    Raises:
        ValueError: if it is neither.
    """
    if text in _NO_TIME:
        return None
    return float(text) if text.isdecimal() else datetime.fromisoformat(text).astimezone().timestamp()


def required(time_s: float | None, name: str) -> float:
    """Return a time that a record cannot do without.

    Raises:
        ValueError: if there is none.
    """
    if time_s is None:
        raise ValueError(f"{name} is missing")
    return time_s
