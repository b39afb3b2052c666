"""The wait model behind lines of JSON: one event or question each, one answer to each question.

    {"op": "site", "procs": 1024}
    {"op": "submit", "job": {"id": 7, "submit": 99, "procs": 4, "req_time": 3600, "user": 3, "queue": "q0"}}
    {"op": "start", "id": 7, "t": 120}
    {"op": "end", "id": 7, "t": 500}
    {"op": "predict", "job": {...}, "now": 99}

Only "predict" is answered: {"wait": 30.0, "probs": {"300": 0.1, ...}, "upper95": 900}. A negative req_time is unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping

from overspill.errors import InvalidRequestError
from overspill_sidecar.wait import trees
from overspill_sidecar.wait.online import OnlineModel
from overspill_sidecar.wait.waiting import WaitingJob

#: What is told of each prediction, in seconds.
_THRESHOLDS_S = (300, 1800, 7200)


def answers(lines: Iterable[str], *, with_trees: bool) -> Iterator[str]:
    """Yield an answer for each question. Trees are fitted between two lines: the same lines give the same answers.

    Raises:
        InvalidRequestError: at the first line that makes no sense; it names the line.
    """
    talk = _Talk(with_trees=with_trees)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            answer = talk.hear(json.loads(line))
        except KeyError as error:
            raise InvalidRequestError(f"line {number}: {error} is missing") from error
        except ValueError as error:
            raise InvalidRequestError(f"line {number}: {error}") from error
        if answer is not None:
            yield json.dumps(answer)


class _Talk:
    def __init__(self, *, with_trees: bool) -> None:
        self._model: OnlineModel | None = None
        self._with_trees = with_trees

    def hear(self, message: object) -> dict[str, object] | None:
        """Take one message and return the answer to it, if it wants one."""
        fields = _object(message)
        operation = fields["op"]
        if operation == "site":
            self._model = OnlineModel(int(_number(fields["procs"])))
            return None
        if self._model is None:
            raise ValueError('the first line must tell the site: {"op": "site", "procs": 1024}')
        match operation:
            case "submit":
                job = _job(fields["job"])
                self._model.submitted(job)
                self._fit_trees(self._model, job.submit_s)
            case "start":
                self._model.started(_key(fields["id"]), _number(fields["t"]))
            case "end":
                self._model.ended(_key(fields["id"]), _number(fields["t"]))
            case "predict":
                return _predict(self._model, _job(fields["job"]), _number(fields["now"]))
            case _:
                raise ValueError(f"op is {operation!r}, not site, submit, start, end or predict")
        return None

    def _fit_trees(self, model: OnlineModel, now_s: float) -> None:
        if self._with_trees and model.wants_trees():
            model.take_trees(trees.fit(model.training_set(now_s)))


def _predict(model: OnlineModel, job: WaitingJob, now_s: float) -> dict[str, object]:
    outlook = model.predict(job, now_s)
    probabilities = {str(threshold): outlook.p_exceeds(threshold) for threshold in _THRESHOLDS_S}
    return {"wait": outlook.median_s, "probs": probabilities, "upper95": outlook.upper_s}


def _job(value: object) -> WaitingJob:
    fields = _object(value)
    limit_s = _number(fields["req_time"])
    return WaitingJob(
        key=_key(fields["id"]),
        submit_s=_number(fields["submit"]),
        cpus=int(_number(fields["procs"])),
        time_limit_s=limit_s if limit_s > 0 else None,
        user=str(fields["user"]),
        partition=str(fields["queue"]),
    )


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no JSON object")  # noqa: TRY004 - what was read has a wrong value
    return value


def _key(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no job id")  # noqa: TRY004 - as above
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
