"""What a runner reports, as it comes (JSON) and as it is used. Bytes enter here: pydantic checks them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from overspill.errors import InvalidRequestError
from overspill_agent.runs import EndReport


class _Report(BaseModel):
    # A newer runner may say more than this agent knows of.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Started(_Report):
    """The script runs."""

    kind: Literal["started"]


class Signalled(_Report):
    """Signal `seq` was delivered, or came too late to matter."""

    kind: Literal["signalled"]
    seq: int = Field(gt=0)


class Ended(_Report):
    """The runner's last word."""

    kind: Literal["ended"]
    exit_code: int | None = Field(default=None, ge=0, le=255)
    signal: int | None = Field(default=None, gt=0, le=64)
    timed_out: bool = False
    lease_lost: bool = False
    oom_kills: int = Field(default=0, ge=0)
    error: str | None = None
    user_cpu_ms: int = Field(default=0, ge=0)
    system_cpu_ms: int = Field(default=0, ge=0)
    max_rss_kib: int = Field(default=0, ge=0)
    stdout: int = Field(ge=0)
    stderr: int = Field(ge=0)

    def end_report(self) -> EndReport:
        return EndReport(
            exit_code=self.exit_code,
            signal=self.signal,
            is_timed_out=self.timed_out,
            is_lease_lost=self.lease_lost,
            oom_kills=self.oom_kills,
            error=self.error or "",
            user_cpu_ms=self.user_cpu_ms,
            system_cpu_ms=self.system_cpu_ms,
            max_rss_kib=self.max_rss_kib,
            stdout_bytes=self.stdout,
            stderr_bytes=self.stderr,
        )


Report = Started | Signalled | Ended
_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def parse_report(payload: bytes) -> Report:
    """Return the report in a frame's payload.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        return _REPORT.validate_json(payload)
    except ValidationError as error:
        raise InvalidRequestError(f"not a report: {error.error_count()} errors in {len(payload)} bytes") from error
