"""Metrics for Prometheus: the configuration, the small server that is asked for them, and what every daemon tells.

What each side measures is declared in its own `metrics` module.
"""

from overspill.metrics.process import describe_process
from overspill.metrics.section import MetricsSection
from overspill.metrics.server import MetricsServer

__all__ = ["MetricsSection", "MetricsServer", "describe_process"]
