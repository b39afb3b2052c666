"""The scales on which the features stand: amounts and times as ln(1 + x), because they span six powers of ten."""

from __future__ import annotations

import math

#: Longer ago than this is as good as never.
FORGOTTEN_S = 1e6


def log(value: float) -> float:
    return math.log1p(value) if value > 0 else 0.0


def signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def ago(then_s: float, now_s: float) -> float:
    return log(min(FORGOTTEN_S, now_s - then_s))
