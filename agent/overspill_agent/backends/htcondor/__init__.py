"""Runs as jobs of an HTCondor pool.

`description`, `features`, `holds`, `observing` and `machines` are pure; `ads` is what they speak of. `pool` is the one
place that knows `htcondor2`, and `backend` puts them together.
"""

from overspill_agent.backends.htcondor.backend import HtcondorBackend
from overspill_agent.backends.htcondor.site import HtcondorSite

__all__ = ["HtcondorBackend", "HtcondorSite"]
