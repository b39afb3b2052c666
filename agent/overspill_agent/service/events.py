"""What a runner is told, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from overspill.runner_protocol import KEEPALIVE_S
from overspill_agent.registry import LiveRun, Registry
from overspill_agent.spool import Stream
from overspill_agent.store.store import StoredSignal

Data = dict[str, int | str]


def encode_event(event: str, data: Data, event_id: int | None = None) -> bytes:
    """Return one event on the wire. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    lines = [f"event: {event}", f"data: {json.dumps(data)}"]
    if event_id is not None:
        lines.append(f"id: {event_id}")
    return ("\n".join(lines) + "\n\n").encode()


async def events(registry: Registry, live: LiveRun, attempt: int) -> AsyncIterator[bytes]:
    """Yield what the runner is to be told, beginning with what it may have missed.

    Ends when the run or the agent does, or when another attempt has taken over.
    """
    async for event in _events(registry, live, attempt):
        live.told_at = time.monotonic()
        yield event


async def _events(registry: Registry, live: LiveRun, attempt: int) -> AsyncIterator[bytes]:
    held = _held(live)
    yield encode_event("hello", held)
    told_signal_seq = 0
    told_limit_s: int | None = None
    is_stop_told = False
    while not (registry.is_closing or live.run.has_ended or live.run.attempt != attempt):
        signals = _due_signals(live, told_signal_seq)
        if _held(live) != held:
            held = _held(live)
            yield encode_event("ack", held)
        elif signals:
            signal = signals[0]
            told_signal_seq = signal.signal_seq
            data: Data = {"seq": signal.signal_seq, "signal": signal.signal, "scope": signal.scope}
            yield encode_event("signal", data, signal.signal_seq)
        elif live.time_limit_s is not None and live.time_limit_s != told_limit_s:
            told_limit_s = live.time_limit_s
            yield encode_event("limit", {"time_limit_s": told_limit_s})
        elif live.run.is_stop_wanted and not is_stop_told:
            is_stop_told = True
            yield encode_event("stop", {})
        elif not await _has_changed(live):
            yield encode_event("keepalive", {})


def _held(live: LiveRun) -> Data:
    spool = live.spool
    return {
        "stdout": spool.durable(Stream.STDOUT),
        "stderr": spool.durable(Stream.STDERR),
        "seq": live.run.report_seq,
    }


def _due_signals(live: LiveRun, told_signal_seq: int) -> list[StoredSignal]:
    """Return the signals to tell; none before the script runs."""
    if live.run.started_at_ms is None:
        return []
    return [signal for signal in live.signals if signal.signal_seq > told_signal_seq]


async def _has_changed(live: LiveRun) -> bool:
    """Wait for a change; return False if a keepalive is due first."""
    try:
        async with asyncio.timeout(KEEPALIVE_S):
            await live.changed()
    except TimeoutError:
        return False
    return True
