-- Asks the router as slurmctld's hook does: the shim's own client on one kept connection. Arguments: the shim's
-- directory, the router's socket, seconds to ask for, questions a second. Every second job is like one before.
-- Prints a line for each answer: milliseconds, the router's word for why, whether the job is "new" or "like" another.

local shim, socket_path, seconds, rate = ...
package.path = shim .. "/?.lua;" .. shim .. "/?/init.lua;" .. package.path

local socket = require "socket"
local unix = require "socket.unix"
local Client = require "overspill.grpc"
local Deadline = require "overspill.deadline"
local router = require "overspill.router"

local NOT_SET = 4294967294
local USERS = 300
-- Half the users submit the same thing again and again.
local KINDS = 150

local client = Client.new(type(unix) == "table" and unix.stream or unix, socket_path)
local ends_at = socket.gettime() + tonumber(seconds)
math.randomseed(1)

local function new_job()
  return {
    script = "#!/bin/sh\ntrue\n", name = "asked", user_id = 2001 + math.random(0, USERS - 1),
    time_limit = math.random(10, 1439), shared = 65534, num_tasks = 1, cpus_per_task = 2 ^ math.random(0, 6),
    min_cpus = NOT_SET, min_mem_per_cpu = 100, partition = math.random() < 0.5 and "batch" or "long",
  }
end

local before = {}
while socket.gettime() < ends_at do
  local is_like = #before > 0 and math.random() < 0.5
  local job_desc = is_like and before[math.random(#before)] or new_job()
  if not is_like and #before < KINDS then
    before[#before + 1] = job_desc
  end
  local request = router.encode_request(router.request(job_desc, "rig", { batch = {}, long = {} }))
  local began = socket.gettime()
  local reply, problem = client:call(router.DECIDE, request, Deadline.start(1, socket.gettime))
  local took_ms = (socket.gettime() - began) * 1e3
  local reason = reply and router.decode_response(reply).reason or problem.kind
  io.write(("%.4f\t%s\t%s\n"):format(took_ms, reason, is_like and "like" or "new"))
  io.flush()
  -- Never in step with what happens at intervals.
  socket.sleep((0.5 + math.random()) / tonumber(rate))
end
