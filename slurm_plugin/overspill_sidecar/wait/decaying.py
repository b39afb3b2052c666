"""Numbers that forget. Each costs a few bytes and a fraction of a microsecond, however long it has counted."""

from __future__ import annotations

from dataclasses import dataclass

#: How fast a peak is forgotten: a week, so that the machine of last month is not today's.
_PEAK_HALF_LIFE_S = 7 * 86400.0


@dataclass(slots=True)
class DecayingSum:
    """A sum whose terms lose half their weight in each half-life."""

    half_life_s: float
    value: float = 0.0
    at_s: float = 0.0

    def add(self, term: float, now_s: float) -> None:
        self.value = self.at(now_s) + term
        self.at_s = now_s

    def at(self, now_s: float) -> float:
        age_s = now_s - self.at_s
        return self.value * 0.5 ** (age_s / self.half_life_s) if age_s > 0 else self.value


@dataclass(slots=True)
class DecayingPeak:
    """The highest level of late."""

    value: float = 0.0
    at_s: float = 0.0

    def note(self, level: float, now_s: float) -> None:
        self.value = max(level, self.at(now_s))
        self.at_s = now_s

    def at(self, now_s: float) -> float:
        return float(self.value * 0.5 ** (max(0.0, now_s - self.at_s) / _PEAK_HALF_LIFE_S))


@dataclass(slots=True)
class RecentMean:
    """A mean in which each new value counts a fixed share; the first ones are not held back by a start from zero."""

    value: float = 0.0
    weight: float = 0.0

    def add(self, value: float, share: float) -> None:
        self.weight += share * (1.0 - self.weight)
        self.value += share * (value - self.value)

    def or_else(self, default: float) -> float:
        return self.value / self.weight if self.weight > 0 else default
