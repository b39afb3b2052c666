"""Signals that slurmstepd sends to the real proxy, and what the relay hears of them."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.integration.proxy_relay import Peer, ProxyRig, proxy_rig

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
FORWARDED = sorted(signal.valid_signals() - _FAULTS - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


def handed_over(rig: ProxyRig) -> Peer:
    """Return a connection whose opening is through."""
    rig.start()
    return rig.accept()


def test_every_signal_that_can_be_caught_is_sent_on(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        peer = handed_over(rig)
        for seq, number in enumerate(FORWARDED, start=1):
            rig.kill(number)
            assert peer.take_signal() == (seq, number)
        assert rig.is_alive


def test_stopping_the_terminal_way_does_not_stop_the_proxy(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        peer = handed_over(rig)
        rig.kill(signal.SIGTSTP)
        assert peer.take_signal() == (1, signal.SIGTSTP)
        rig.kill(signal.SIGCONT)
        assert peer.take_signal() == (2, signal.SIGCONT)


def test_suspended_proxy_goes_on_where_it_was(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        peer = handed_over(rig)
        rig.kill(signal.SIGSTOP)
        peer.output(b"written after the break")
        rig.kill(signal.SIGCONT)
        assert peer.take_signal() == (1, signal.SIGCONT)
        peer.end(exit_code=0)
        assert rig.wait() == 0
    assert rig.stdout == b"written after the break"


def test_unacknowledged_signals_come_again_on_a_new_connection(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        peer = handed_over(rig)
        for seq, number in enumerate((signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1), start=1):
            rig.kill(number)
            assert peer.take_signal() == (seq, number)
        peer.acknowledge_signal(1)
        peer.output(b".")
        peer.take_acknowledgements_to(1)
        peer.close()
        again = rig.accept()
        assert [again.take_signal(), again.take_signal()] == [(2, signal.SIGUSR2), (3, signal.SIGUSR1)]


def test_signals_that_come_while_the_relay_is_away_are_kept(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        peer = handed_over(rig)
        rig.stop_listening()
        peer.close()
        for number in (signal.SIGCONT, signal.SIGTERM):
            rig.kill(number)
        rig.listen()
        again = rig.accept()
        assert {again.take_signal()[1], again.take_signal()[1]} == {signal.SIGCONT, signal.SIGTERM}
        assert rig.is_alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_job_that_no_relay_ever_knew_ends_at_once(tmp_path: Path, number: int) -> None:
    with proxy_rig(tmp_path, is_listening=False) as rig:
        rig.start()
        wait_until_it_catches(rig)
        rig.kill(signal.SIGCONT)
        rig.kill(number)
        assert rig.wait() == -number
    assert rig.stdout + rig.stderr == b""


def test_a_warning_that_comes_before_any_relay_knew_the_job_waits_for_the_script(tmp_path: Path) -> None:
    with proxy_rig(tmp_path, is_listening=False) as rig:
        rig.start()
        wait_until_it_catches(rig)
        rig.kill(signal.SIGUSR1)
        rig.listen()
        assert rig.accept().take_signal() == (1, signal.SIGUSR1)


def wait_until_it_catches(rig: ProxyRig) -> None:
    """Wait until the proxy has its handlers. The last is that of signal 64; Python has one for INT from its start."""
    deadline = time.monotonic() + 10
    while not re.search(r"SigCgt:\t[89a-f]", status := Path(f"/proc/{rig.pid}/status").read_text()):
        assert time.monotonic() < deadline, status
        time.sleep(0.005)


#: Execs a command with all signals blocked, as spank_overspill.so may.
BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_signal_that_was_blocked_over_the_start_is_not_lost(tmp_path: Path, number: int) -> None:
    with proxy_rig(tmp_path, is_listening=False) as rig:
        rig.start(command=["/usr/bin/python3", "-I", "-S", "-c", BLOCKING])
        rig.kill(signal.SIGSTOP)
        rig.kill(number)
        rig.kill(signal.SIGCONT)
        assert rig.wait() == -number
    assert rig.stderr == b""
