--- A total time budget, measured by a clock that somebody may set.
--
-- lua-socket offers the wall clock only. A clock that went backwards ends the budget at once: the job then runs
-- locally, which costs less than waiting for a time that may be an hour away. One that went forwards does so anyway.

local failure = require "overspill.failure"

local Deadline = {}
Deadline.__index = Deadline

--- Starts a budget of `budget_s` seconds now. `gettime` returns seconds with a fraction.
function Deadline.start(budget_s, gettime)
  local now = gettime()
  return setmetatable({ gettime = gettime, ends_at = now + budget_s, latest = now }, Deadline)
end

--- Seconds that are left: always positive, because lua-socket takes a timeout below zero for "wait for ever".
-- Raises the failure "deadline" once nothing is left.
function Deadline:left_s()
  local now = self.gettime()
  if now < self.latest then
    now = math.huge
  end
  self.latest = now
  local left = self.ends_at - now
  if left <= 0 then
    failure.raise("deadline", "no answer in time")
  end
  return left
end

return Deadline
