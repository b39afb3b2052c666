"""What every daemon of ours does as it starts."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys

import structlog

from overspill.log_flood import FloodFilter, FloodGate

LOG_LEVELS = ("debug", "info", "warning")


def set_up_logs(level: str) -> None:
    """Log to stderr, JSON lines for a service and key=value on a terminal; what libraries log comes in the same form.

    Args:
        level: one of `LOG_LEVELS`; libraries are heard from warnings on.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    common: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    if sys.stderr.isatty():
        renderers = [structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[FloodGate(), *common, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[strip, *renderers]))
    handler.addFilter(FloodFilter())
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING))


def raise_open_files() -> None:
    """Allow as many open files as the system lets us: each job costs some, and 1024 is the usual soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tell_ready() -> None:
    """Tell systemd that we serve, if it wants to know. Children are not told where: they are not the service.

    Source: sd_notify(3).
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        manager.send(b"READY=1")
