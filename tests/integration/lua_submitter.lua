-- Stands in for slurmctld: one Lua state for life, one submission per line of standard input. Arguments: the shim's
-- directory, the router's socket, the deadline in seconds.
-- "submit NAME" answers with one line "CODE<tab>PARTITION<tab>LOGGED LINES"; "clock SECONDS" moves the wall clock.

local shim, socket_path, deadline_s = ...
package.path = shim .. "/?.lua;" .. shim .. "/?/init.lua;" .. package.path

local logged = {}
local function log(format, ...)
  logged[#logged + 1] = string.format(format, ...)
end
slurm = {
  SUCCESS = 0, ERROR = -1, ESLURM_ACCESS_DENIED = 2002, CLUSTER_NAME = "rig",
  log_info = log, log_error = log, log_user = log,
}

local socket = require "socket"
local gettime, clock_offset_s = socket.gettime, 0
socket.gettime = function()
  return gettime() + clock_offset_s
end

local overspill = require "overspill"
overspill.configure { socket = socket_path, deadline_s = tonumber(deadline_s) }

local function submit(name)
  local job_desc = {
    script = "#!/bin/sh\ntrue\n", name = name, user_id = 2001, time_limit = 4294967294, shared = 65534, min_cpus = 1,
  }
  local part_list = { batch = {}, overspill = {} }
  for number = 1, name == "large" and 4000 or 0 do
    part_list[("%050d"):format(number)] = {}
  end
  local code = overspill.submit(job_desc, part_list, 2001)
  io.write(code, "\t", job_desc.partition or "", "\t", table.concat(logged, " | "), "\n")
  logged = {}
end

for line in io.lines() do
  local command, argument = line:match("^(%w+) (.*)$")
  if command == "submit" then
    submit(argument)
  else
    clock_offset_s = clock_offset_s + tonumber(argument)
    io.write("0\t\t\n")
  end
  io.flush()
end
