--- Circuit breaker: after failures, stops asking for a while. A pure state machine; the caller brings the time.
--
--   closed --(a deadline passed, or several failures in a row)--> open --(pause over: one call probes)--> closed | open
--
-- A pause of a second at first, which doubles while probes fail. A deadline costs its whole length, under slurmctld's
-- locks, so one is enough for a pause, and a sidecar that hangs is soon probed every half minute only: in all,
-- submitters lose six deadlines in the first minute and two in each later one. One that was merely late, on a busy host,
-- is asked again after a second, so that a burst of jobs does not keep the following ones at home.
-- Other failures cost a tenth of a millisecond: three in a row bring a pause, of a few seconds at most.

local Breaker = {}
Breaker.__index = Breaker

Breaker.FAILURES_BEFORE_PAUSE = 3
Breaker.FIRST_PAUSE_S = 1
Breaker.LONGEST_PAUSE_S = 4
Breaker.LONGEST_PAUSE_AFTER_DEADLINE_S = 30

function Breaker.new()
  return setmetatable({ is_open = false, failures = 0, pause_s = 0, paused_at = 0 }, Breaker)
end

--- Tells whether a call may be made at `now`. Not a pure question: while open, a yes starts the next pause, so that
-- there is one probe per pause even if its outcome is never recorded.
-- A clock behind the beginning of the pause was set back; it allows a probe rather than a pause without end.
function Breaker:allows(now)
  if not self.is_open then
    return true
  end
  if now >= self.paused_at and now < self.paused_at + self.pause_s then
    return false
  end
  self.paused_at = now
  return true
end

--- Takes note of an answer. Returns "closed" where that ends a pause, else nil.
function Breaker:record_success()
  local was_open = self.is_open
  self.is_open, self.failures, self.pause_s = false, 0, 0
  if was_open then
    return "closed"
  end
end

--- Takes note of a failure at `now`; `kind` is one of overspill.failure. Returns "opened" where that opens a closed
-- breaker, else nil: a probe that fails changes nothing that an admin has not been told.
function Breaker:record_failure(kind, now)
  self.failures = self.failures + 1
  local was_open = self.is_open
  local is_deadline = kind == "deadline"
  if not (is_deadline or was_open or self.failures >= Breaker.FAILURES_BEFORE_PAUSE) then
    return nil
  end
  local longest_s = is_deadline and Breaker.LONGEST_PAUSE_AFTER_DEADLINE_S or Breaker.LONGEST_PAUSE_S
  self.pause_s = math.max(Breaker.FIRST_PAUSE_S, math.min(2 * self.pause_s, longest_s))
  self.is_open, self.paused_at = true, now
  if not was_open then
    return "opened"
  end
end

return Breaker
