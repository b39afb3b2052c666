"""The site's side as a whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from overspill.cli.certificates import check_certificates
from overspill.cli.finding import Finding, Side, error, ok, warning
from overspill.errors import OverspillError
from overspill.metrics.check import check_metrics
from overspill_agent.backends.accounts import check_accounts, check_value
from overspill_agent.checks import container_engine, host, images
from overspill_agent.config import AgentConfig, configured_path, load


def look(path: Path) -> Iterator[Finding]:
    """Look at everything on this side."""
    if os.geteuid() != 0:
        yield warning("rights", "without root's rights not everything can be seen", "run overspill check as root")
    config = yield from _configuration(path)
    if config is None:
        return
    yield from _certificates(config)
    yield from _accounts(config)
    yield from host.directories(config)
    yield from host.disk(config)
    yield from host.listening(config)
    if config.local:
        yield from host.sandbox(config.local)
    if config.docker:
        yield from container_engine.engine(config, config.docker)
    yield from images.images(config)
    yield from check_metrics(config.metrics.listen, has_tls=config.metrics.tls is not None)


SITE = Side("site", configured_path, look)


def _configuration(path: Path) -> Generator[Finding, None, AgentConfig | None]:
    try:
        config = load(path)
        mode = path.stat().st_mode
    except OverspillError as failure:
        for reason in failure.reason.splitlines():
            yield error("agent.toml", reason, "see packaging/examples/agent.toml")
        return None
    except OSError as failure:
        yield error("agent.toml", f"cannot look at {path}: {failure.strerror}")
        return None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"{path} is writable for others, who could map themselves to any account"
        yield error("agent.toml", what, f"chmod go-w {path}")
    else:
        yield ok("agent.toml", f"{path} is valid")
    return config


def _certificates(config: AgentConfig) -> Iterator[Finding]:
    owners = {0}
    yield from check_certificates("relays' service", config.server_files(), set(), owners)
    host_name = urlsplit(config.runner_channel.url).hostname or ""
    yield from check_certificates("runners' service", config.runner_files(), {host_name}, owners)


def _accounts(config: AgentConfig) -> Iterator[Finding]:
    lines = [(cluster, user, value) for cluster, users in config.accounts.items() for user, value in users.items()]
    if not lines:
        what = "no user of any cluster is mapped to an account, so every run is refused"
        yield error("accounts", what, "add [accounts.CLUSTER] with user = account lines")
        return
    problems = []
    for cluster, user, value in lines:
        try:
            check_value(value)
        except OverspillError as failure:
            what = f"{cluster}'s {user} is mapped to {value}: {failure.reason}"
            problems.append(error(f"accounts: {cluster}", what, f"correct [accounts.{cluster}], or add the user"))
    if problems:
        yield from problems
        return
    for remark in check_accounts(config.accounts):
        yield warning("accounts", remark, "give each person an account of his own, unless that is meant")
    yield ok("accounts", f"{len(lines)} lines map users to accounts that may have runs")
