--- Overspill in slurmctld's job_submit hook: asks the sidecar where a submission goes, and applies the answer.
--
--   local overspill = require "overspill"
--   function slurm_job_submit(job_desc, part_list, submit_uid)
--     return overspill.submit(job_desc, part_list, submit_uid)
--   end
--
-- Never raises, never takes longer than the deadline, and leaves the job as it is whenever there is no clear answer.
-- slurmctld calls this under its locks and one mutex, in one Lua state that lives until job_submit.lua changes.

local Breaker = require "overspill.breaker"
local Client = require "overspill.grpc"
local Deadline = require "overspill.deadline"
local failure = require "overspill.failure"
local router = require "overspill.router"

local overspill = {}

local MAX_DEADLINE_S = 1

local settings = { socket = "/run/overspill/router.sock", deadline_s = 0.045 }
local breaker = Breaker.new()
local client -- made at the first call, so that a host without lua-socket can load this module
local gettime = os.time -- until lua-socket brings one with a fraction
local is_told = {}

-- slurm.log_… take a format as string.format does. `slurm` is looked up late: it is not there when modules load.
local function log_info(text)
  slurm.log_info("%s", "overspill: " .. text)
end

local function log_error(text)
  slurm.log_error("%s", "overspill: " .. text)
end

-- For what would come again with every job.
local function log_error_once(topic, text)
  if not is_told[topic] then
    is_told[topic] = true
    log_error(text .. " (told once)")
  end
end

--- Changes settings: `socket`, the path where the sidecar's router listens, and `deadline_s`, seconds (above 0, at
-- most 1) that one submission may wait for it in all. Optional; call it once, at the top of job_submit.lua.
-- A setting that makes no sense is logged and leaves the default.
function overspill.configure(options)
  options = options or {}
  if type(options.socket) == "string" and options.socket:sub(1, 1) == "/" then
    settings.socket = options.socket
  elseif options.socket ~= nil then
    log_error("configure: socket must be an absolute path")
  end
  if type(options.deadline_s) == "number" and options.deadline_s > 0 and options.deadline_s <= MAX_DEADLINE_S then
    settings.deadline_s = options.deadline_s
  elseif options.deadline_s ~= nil then
    log_error("configure: deadline_s must be a number of seconds up to " .. MAX_DEADLINE_S)
  end
  if client then
    client:close()
    client = nil
  end
end

-- lua-socket made socket.unix a table of constructors in release 3.0; before, it was the constructor.
local function load_client()
  local has_socket, socket = pcall(require, "socket")
  local has_unix, unix = pcall(require, "socket.unix")
  if not (has_socket and has_unix) then
    failure.raise("unavailable", "lua-socket is not installed")
  end
  gettime = socket.gettime
  client = Client.new(type(unix) == "table" and unix.stream or unix, settings.socket)
end

-- Returns the router's answer; nil where it is not to be asked now. Raises a failure.
local function ask(job_desc, part_list)
  if not breaker:allows(gettime()) then
    return nil
  end
  if not client then
    load_client()
  end
  local deadline = Deadline.start(settings.deadline_s, gettime)
  local request = router.encode_request(router.request(job_desc, slurm.CLUSTER_NAME, part_list))
  local reply, problem = client:call(router.DECIDE, request, deadline)
  if not reply then
    error(problem, 0)
  end
  local response = router.decode_response(reply)
  if breaker:record_success() == "closed" then
    log_info("the sidecar answers again")
  end
  return response
end

-- Sets the fields; the partition comes last, so that whatever fails before leaves a job that runs locally.
local function divert(job_desc, action)
  for field, value in pairs(action.fields) do
    job_desc[field] = value
  end
  job_desc.partition = action.partition
end

-- Has the job carry what its user wishes.
local function note_wish(job_desc)
  local comment = router.with_wish(job_desc, slurm.CLUSTER_NAME)
  if comment then
    job_desc.admin_comment = comment
  end
end

local function apply(action, job_desc)
  if action.verdict == "divert" then
    divert(job_desc, action)
  elseif action.problem then
    log_error_once("problem", "a job that could be diverted runs locally: " .. action.problem)
  end
  if (action.message or "") ~= "" then
    slurm.log_user("%s", action.message)
  end
  return action.verdict == "refuse" and (slurm.ESLURM_ACCESS_DENIED or slurm.ERROR) or slurm.SUCCESS
end

local function submit(job_desc, part_list)
  -- First, because it is to be noted whether the router answers or not.
  note_wish(job_desc)
  if not router.must_be_asked(job_desc) then
    return slurm.SUCCESS
  end
  local response = ask(job_desc, part_list)
  return response and apply(router.action(response, job_desc, part_list), job_desc) or slurm.SUCCESS
end

-- A defect says nothing about the sidecar. Counted, one user's odd jobs could open the breaker for everybody.
local function record_failure(problem)
  if problem.kind == "internal" then
    log_error_once("internal", "defect: " .. problem.detail)
  elseif breaker:record_failure(problem.kind, gettime()) == "opened" then
    log_error(string.format("no answer from the sidecar at %s (%s: %s): jobs run locally, next try in %d s",
      settings.socket, problem.kind, problem.detail, breaker.pause_s))
  end
end

--- Asks where the submission goes and applies the answer to `job_desc`. Takes the arguments of slurm_job_submit.
-- Returns slurm.SUCCESS; only a submission that the router refuses gets an error code, and the user a message.
function overspill.submit(job_desc, part_list, _submit_uid)
  local succeeded, result = pcall(submit, job_desc, part_list)
  if succeeded then
    return result
  end
  pcall(record_failure, failure.from_error(result))
  return slurm.SUCCESS
end

return overspill
