"""What a measurement yields. Pure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One number for Overspill and, where there is one, the same of its peer in the same run."""

    what: str
    unit: str
    overspill: float
    peer: float | None = None
    #: What the peer is, in a word or two.
    against: str = ""
    #: From section 11 of the design, as text: nothing is asserted here.
    budget: str = ""
    samples: int = 1

    @property
    def ratio(self) -> float | None:
        """Overspill's number over the peer's; None without a peer or where the peer's is 0."""
        return self.overspill / self.peer if self.peer else None

    def as_record(self, measurement: str) -> dict[str, object]:
        """Return what a line of JSON holds: the figure, its measurement, and the machine's load at this moment."""
        numbers = {"overspill": self.overspill, "peer": self.peer, "ratio": self.ratio}
        rounded = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
        return {"measurement": measurement, **asdict(self), **rounded, "load_average_1m": round(os.getloadavg()[0], 2)}


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least `percent` of the samples do not exceed.

    Raises:
        ValueError: without any sample.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def spread(
    what: str,
    overspill: Sequence[float],
    peer: Sequence[float] = (),
    *,
    against: str = "",
    unit: str = "ms",
    budgets: Mapping[int, str] | None = None,
) -> list[Figure]:
    """Return median and 99th percentile of both, with their budgets by percentile (50, 99)."""
    return [
        Figure(
            f"{what}, {'median' if percent == 50 else f'p{percent}'}",
            unit,
            percentile(overspill, percent),
            percentile(peer, percent) if peer else None,
            against,
            (budgets or {}).get(percent, ""),
            len(overspill),
        )
        for percent in (50, 99)
    ]
