"""What happens as a package comes and goes. The same for both formats; each calls it in its own way.

Nothing is started that was not: a fresh installation has no certificates yet. An upgrade starts anew what runs; jobs go
on meanwhile (proxies reconnect to the relay, runs outlive the agent). Configuration and state go with a purge only.
"""

from __future__ import annotations

import shlex

from overspill_packages.description import Package

#: systemctl finds no instances of a template by itself that are enabled only.
_DISABLE_INSTANCES = """\
    for link in /etc/systemd/system/*.wants/{instances}; do
        [ ! -L "$link" ] || systemctl --no-reload disable --now "$(basename "$link")" || true
    done
"""
#: No defect of systemd's is a reason to leave a package half installed.
_RELOAD = "    systemctl daemon-reload || true\n"
_IF_SYSTEMD = "if [ -d /run/systemd/system ]; then\n{body}fi\n"


def after_installation(package: Package, *, is_upgrade: str) -> str:
    """Return the lines; `is_upgrade` is the shell's test for an upgrade."""
    body = _RELOAD
    if package.services:
        body += f"    if {is_upgrade}; then systemctl try-restart {' '.join(package.services)} || true; fi\n"
    return _IF_SYSTEMD.format(body=body) if package.units else ""


def before_removal(package: Package, *, is_removal: str) -> str:
    """Return the lines that stop and disable what runs; the agent's runs end by themselves when their lease is over."""
    body = ""
    if package.services:
        body += f"    systemctl --no-reload disable --now {' '.join(package.services)} || true\n"
    for template in package.templates:
        body += _DISABLE_INSTANCES.format(instances=template.replace("@.", "@*."))
    return f"if {is_removal}; then\n{_indented(_IF_SYSTEMD.format(body=body))}fi\n" if body else ""


def after_removal(package: Package, *, is_removal: str) -> str:
    return f"if {is_removal}; then\n{_indented(_IF_SYSTEMD.format(body=_RELOAD))}fi\n" if package.units else ""


def purge(package: Package) -> str:
    """Return the lines that remove what the package's programs have left."""
    return "".join(f"rm -rf --one-file-system {shlex.quote(directory)}\n" for directory in package.purge)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
