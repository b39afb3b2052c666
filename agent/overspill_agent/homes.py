"""When each relay last showed that it hears this agent: what the leases of its runs are measured from.

A relay that cannot hear the agent concludes, a while after the lease, that its runs are dead, and has Slurm start their
jobs again. So a request alone renews nothing: it may come through where no answer does. Each answer to Capacity has a
number, and the next request that names it renews the lease from the moment when that answer was sent.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

#: Answers that a request may still name; a relay asks every few seconds.
_KEPT = 16
_SAVE_INTERVAL_S = 10.0
#: Relays of one cluster that are remembered, those heard last; a cluster has one, or a few over the years.
_MOST_OF_A_CLUSTER = 32
#: A name is a host's, or whatever somebody who is no relay of ours has sent.
_LONGEST_NAME = 256


def name_of(slurm_cluster: str, home: str) -> str:
    """Return what a cluster's relay is called here."""
    return f"{slurm_cluster}/{home[:_LONGEST_NAME]}"


def _cluster_of(name: str) -> str:
    return name.partition("/")[0]


def _now_s() -> float:
    """Return seconds that go on while the machine sleeps: a lease does, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Homes:
    """The relays' silence, kept in one small file across restarts. A file that is lost or old makes silence longer."""

    def __init__(self, path: Path) -> None:
        """Take up what an earlier agent has saved in `path`; a relay that is not in it is silent since now."""
        self._path = path
        self._began_at = _now_s()
        self._heard_at = _load(path, self._began_at)
        self._answers: dict[str, deque[tuple[int, float]]] = {}
        self._saved_at = float("-inf")

    def answer(self, home: str) -> int:
        """Return the number of an answer that is being sent."""
        lease_id = secrets.randbits(63) + 1
        answers = self._answers.pop(home, deque(maxlen=_KEPT))
        answers.append((lease_id, _now_s()))
        self._answers[home] = answers
        self._forget_others(home)
        return lease_id

    def _forget_others(self, home: str) -> None:
        """Keep what one cluster can make us remember small; only its own relays suffer."""
        cluster = _cluster_of(home)
        known = [each for each in {**self._heard_at, **self._answers} if _cluster_of(each) == cluster]
        for name in known[:-_MOST_OF_A_CLUSTER]:
            self._answers.pop(name, None)
            self._heard_at.pop(name, None)

    def confirm(self, home: str, lease_id: int) -> None:
        """Renew the leases of the relay's runs from when the answer of this number was sent; it may be none of ours."""
        for known_id, sent_at in self._answers.get(home, ()):
            if known_id == lease_id:
                self._heard_at[home] = max(sent_at, self._heard_at.pop(home, sent_at))
                self._save()
                return

    def silence_s(self, home: str) -> float:
        """Return for how long the relay has confirmed nothing."""
        return _now_s() - self._heard_at.get(home, self._began_at)

    def _save(self) -> None:
        now = _now_s()
        if now - self._saved_at < _SAVE_INTERVAL_S:
            return
        self._saved_at = now
        offset = time.time() - now
        content = json.dumps({home: heard_at + offset for home, heard_at in self._heard_at.items()})
        new = self._path.with_suffix(".new")
        try:
            new.write_text(content)
            new.rename(self._path)
        except OSError as error:
            log.warning("leases are not saved", action="homes_not_saved", reason=error.strerror)


def _load(path: Path, now: float) -> dict[str, float]:
    """Return the times in the file as they are on this boot's clock; none of them lies in the future."""
    try:
        saved = json.loads(path.read_text())
        offset = now - time.time()
        return {str(home): min(float(heard_at) + offset, now) for home, heard_at in saved.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("saved leases are not readable", action="homes_not_read", reason=str(error))
        return {}
