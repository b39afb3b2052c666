--- What the router is asked, and what its answer means for the job. Tables in, tables out.
--
-- Field names are those of job_submit_lua.c, _get_job_req_field(). The schemas repeat
-- proto/overspill/v1/router.proto; a test compares them.

local json = require "overspill.json"
local protobuf = require "overspill.protobuf"

local router = {}

router.DECIDE = "/overspill.v1.Router/Decide"
router.ADMIN_COMMENT_KEY = "overspill"

-- Slurm's marks for "not set" and "unlimited", by the width of the field. Source: slurm/slurm.h.
local NO_VAL16 = 65534
local NO_VAL, INFINITE = 4294967294, 4294967295

-- Values of job_desc.shared that leave the job's nodes to others. Source: enum job_shared in slurm/slurm.h.
local JOB_SHARED_OK = 1

local VERDICT_DIVERT, VERDICT_REFUSE = 2, 3

-- Slurm takes hardly any longer text, but looks only after this hook: until then a user can send megabytes.
local MAX_TEXT_BYTES = 4096
-- More than the name of any site or image has.
local MAX_NAME_BYTES = 64
-- Comments at the top of a script that are looked through.
local MAX_OPENING_BYTES = 65536

router.REQUEST_SCHEMA = protobuf.schema {
  { number = 1, name = "user_id", kind = "uint" },
  { number = 2, name = "account", kind = "string" },
  { number = 3, name = "qos", kind = "string" },
  { number = 4, name = "partition", kind = "string" },
  { number = 5, name = "job_name", kind = "string" },
  { number = 6, name = "has_script", kind = "bool" },
  { number = 7, name = "time_limit_min", kind = "uint" },
  { number = 8, name = "min_nodes", kind = "uint" },
  { number = 9, name = "max_nodes", kind = "uint" },
  { number = 10, name = "num_tasks", kind = "uint" },
  { number = 11, name = "cpus_per_task", kind = "uint" },
  { number = 12, name = "min_cpus", kind = "uint" },
  { number = 13, name = "memory_per_node_mib", kind = "uint" },
  { number = 14, name = "memory_per_cpu_mib", kind = "uint" },
  { number = 15, name = "asks_all_memory", kind = "bool" },
  { number = 16, name = "tres", kind = "string", is_repeated = true },
  { number = 17, name = "features", kind = "string" },
  { number = 18, name = "reservation", kind = "string" },
  { number = 19, name = "licenses", kind = "string" },
  { number = 20, name = "required_nodes", kind = "string" },
  { number = 21, name = "excluded_nodes", kind = "string" },
  { number = 22, name = "dependency", kind = "string" },
  { number = 23, name = "array", kind = "string" },
  { number = 24, name = "burst_buffer", kind = "string" },
  { number = 25, name = "container", kind = "string" },
  { number = 26, name = "begin_time_s", kind = "uint" },
  { number = 27, name = "is_held", kind = "bool" },
  { number = 28, name = "is_het", kind = "bool" },
  { number = 29, name = "is_exclusive", kind = "bool" },
  { number = 30, name = "odd_options", kind = "string", is_repeated = true },
  { number = 31, name = "overspill_option", kind = "string" },
  { number = 32, name = "tasks_per_node", kind = "uint" },
  { number = 33, name = "work_dir", kind = "string" },
  { number = 34, name = "is_cron", kind = "bool" },
  { number = 36, name = "open_partitions", kind = "string", is_repeated = true },
  { number = 37, name = "tres_scopes", kind = "string", is_repeated = true },
  { number = 38, name = "cpus_per_tres", kind = "string" },
  { number = 39, name = "mem_per_tres", kind = "string" },
  { number = 40, name = "image", kind = "string" },
}

router.RESPONSE_SCHEMA = protobuf.schema {
  { number = 1, name = "verdict", kind = "uint" },
  { number = 2, name = "decision_id", kind = "string" },
  { number = 3, name = "partition", kind = "string" },
  { number = 4, name = "admin_comment", kind = "string" },
  { number = 5, name = "time_limit_min", kind = "uint" },
  { number = 6, name = "memory_per_cpu_mib", kind = "uint" },
  { number = 7, name = "memory_per_node_mib", kind = "uint" },
  { number = 8, name = "user_message", kind = "string" },
  { number = 9, name = "reason", kind = "string" },
  { number = 12, name = "memory_per_gpu_mib", kind = "uint" },
  { number = 13, name = "cpus_per_gpu", kind = "uint" },
}

-- Request fields that are job_desc fields under another name, or the same.
local STRING_FIELDS = {
  account = "account", qos = "qos", partition = "partition", job_name = "name", features = "features",
  reservation = "reservation", licenses = "licenses", required_nodes = "req_nodes", excluded_nodes = "exc_nodes",
  dependency = "dependency", array = "array_inx", container = "container", work_dir = "work_dir",
  cpus_per_tres = "cpus_per_tres", mem_per_tres = "mem_per_tres",
}
local UINT16_FIELDS = { cpus_per_task = "cpus_per_task", tasks_per_node = "ntasks_per_node" }
local UINT32_FIELDS = {
  min_nodes = "min_nodes", max_nodes = "max_nodes", num_tasks = "num_tasks", min_cpus = "min_cpus",
}
-- As sbatch writes --cpus-per-gpu and --mem-per-gpu.
local PER_GPU = "gres:gpu:"
local TRES_SCOPES = { "job", "node", "socket", "task" }

local USERS_TEXTS = { "burst_buffer", "clusters" }
for _, field in pairs(STRING_FIELDS) do
  USERS_TEXTS[#USERS_TEXTS + 1] = field
end
for _, scope in ipairs(TRES_SCOPES) do
  USERS_TEXTS[#USERS_TEXTS + 1] = "tres_per_" .. scope
end

-- Options that no field of the request holds, by the job_desc field that shows them, in the order they are named.
-- No Slurm shows `--deadline` to Lua, and 22.05 (seen) shows neither `--core-spec` nor `--thread-spec`.
local ODD_FIELDS = {
  { option = "core-spec", field = "core_spec", unset = NO_VAL16, is_set_by_zero = true },
  { option = "thread-spec", field = "thread_spec", unset = NO_VAL16, is_set_by_zero = true },
  { option = "switches", field = "req_switch", unset = NO_VAL },
  { option = "tmp", field = "pn_min_tmp_disk", unset = NO_VAL },
  { option = "time-min", field = "time_min", unset = NO_VAL },
  { option = "reboot", field = "reboot", unset = NO_VAL16 },
  { option = "contiguous", field = "contiguous", unset = NO_VAL16 },
  { option = "sockets-per-node", field = "sockets_per_node", unset = NO_VAL16 },
  { option = "cores-per-socket", field = "cores_per_socket", unset = NO_VAL16 },
  { option = "threads-per-core", field = "threads_per_core", unset = NO_VAL16 },
  { option = "ntasks-per-socket", field = "ntasks_per_socket", unset = NO_VAL16 },
  { option = "ntasks-per-core", field = "ntasks_per_core", unset = NO_VAL16 },
  { option = "ntasks-per-gpu", field = "ntasks_per_tres", unset = NO_VAL16 },
}

--- The value of a numeric job_desc field, or nil where it is unset; `no_val` is Slurm's mark for its width.
local function number_set(value, no_val)
  if value and value > 0 and value < no_val then
    return value
  end
end

-- Value of one of our options; SPANK writes its name with underscores. spank_job_env is a table that begins at 0; a
-- later entry overrides an earlier one.
local function spank_option(job_desc, name)
  local option
  local entries = job_desc.spank_job_env or {}
  for index = 0, (job_desc.spank_job_env_size or 0) - 1 do
    option = (entries[index] or ""):match("^_SLURM_SPANK_OPTION_overspill_" .. name .. "=(.*)$") or option
  end
  return option
end

local function overspill_option(job_desc)
  return spank_option(job_desc, "overspill")
end

local function image_option(job_desc)
  return spank_option(job_desc, "overspill_image")
end

local function is_het(job_desc)
  local offset = job_desc.het_job_offset or NO_VAL
  return offset ~= NO_VAL
end

-- Whether the job names clusters, other than this one alone.
local function names_clusters(job_desc, cluster_name)
  local clusters = job_desc.clusters or ""
  return clusters ~= "" and clusters ~= cluster_name
end

-- The first burst buffer directive of a script. As the burst buffer plugins do, looks no further than the comments at
-- the top. `--bb` and `--bbf` are there too: sbatch writes them into the script. In comments without end there may be
-- one: then it is where the search ended.
local function burst_buffer_directive(script)
  for line, after in (script or ""):gmatch("([^\n]+)()") do
    if line:sub(1, 1) ~= "#" then
      return nil
    elseif after > MAX_OPENING_BYTES or line:find("^#[BD][BW]%s") then
      return line:sub(1, MAX_TEXT_BYTES)
    end
  end
end

local function odd_options(job_desc, cluster_name)
  local options = {}
  for _, odd in ipairs(ODD_FIELDS) do
    local value = job_desc[odd.field]
    if number_set(value, odd.unset) or odd.is_set_by_zero and value == 0 then
      options[#options + 1] = odd.option
    end
  end
  -- sbatch raises this one to `--cpus-per-task` by itself (seen on 22.05).
  local min_cpus = number_set(job_desc.pn_min_cpus, NO_VAL16)
  if min_cpus and min_cpus > (number_set(job_desc.cpus_per_task, NO_VAL16) or 1) then
    options[#options + 1] = "mincpus"
  end
  if names_clusters(job_desc, cluster_name) then
    options[#options + 1] = "clusters"
  end
  return options
end

-- Since 23.11 `--cpus-per-task` shows up in tres_per_task, too; CPUs have fields of their own in the request.
local function without_cpus(list)
  local items = {}
  for item in list:gmatch("[^,]+") do
    if not item:find("^cpu[:=]") then
      items[#items + 1] = item
    end
  end
  return table.concat(items, ",")
end

local function tres(job_desc)
  local requests, scopes = {}, {}
  for _, scope in ipairs(TRES_SCOPES) do
    local request = without_cpus(job_desc["tres_per_" .. scope] or "")
    if request ~= "" then
      requests[#requests + 1], scopes[#scopes + 1] = request, scope
    end
  end
  return requests, scopes
end

-- The names in `part_list`: slurmctld leaves out what the user may not use.
local function names(part_list)
  local list = {}
  for name in pairs(part_list) do
    list[#list + 1] = name
  end
  return list
end

-- Whether a text that goes into the request is longer than what is worth slurmctld's time.
local function has_long_text(job_desc)
  for _, field in ipairs(USERS_TEXTS) do
    if #(job_desc[field] or "") > MAX_TEXT_BYTES then
      return true
    end
  end
  return math.max(#(overspill_option(job_desc) or ""), #(image_option(job_desc) or "")) > MAX_TEXT_BYTES
end

--- Tells whether the router must be asked at all: where the answer cannot change anything, the call is saved.
-- A batch script can be diverted, unless the user said never. Whatever else comes (srun, salloc, a component of a
-- heterogeneous job, scrontab) never is; but aimed at a partition by name, it may have to be refused.
-- A job with a text that takes long to describe runs locally.
function router.must_be_asked(job_desc)
  if has_long_text(job_desc) then
    return false
  end
  if job_desc.script == nil or job_desc.cron_job or is_het(job_desc) then
    return (job_desc.partition or "") ~= ""
  end
  return overspill_option(job_desc) ~= "never"
end

-- Returns a value of one of our options as JSON; one that is no name of anything as a value that nothing is called by.
local function name_in_json(value)
  return '"' .. (#value <= MAX_NAME_BYTES and value:match("^[%w._-]+$") or "?") .. '"'
end

--- Returns the admin_comment of a batch job with what its user wishes of us, so that it is known as long as the job
-- waits: Slurm shows neither our options nor -M to anybody. Returns nil where there is nothing to note, or where the
-- site's own comment is no JSON object. `stays` is a word for why the job is never to be looked at again.
function router.with_wish(job_desc, cluster_name)
  local option, image = overspill_option(job_desc) or "", image_option(job_desc) or ""
  local members = {}
  if option ~= "" and option ~= "auto" then
    members[#members + 1] = '"option":' .. name_in_json(option)
  end
  if image ~= "" then
    members[#members + 1] = '"image":' .. name_in_json(image)
  end
  if names_clusters(job_desc, cluster_name) then
    members[#members + 1] = '"stays":"odd_option"'
  end
  if job_desc.script == nil or #members == 0 then
    return nil
  end
  local own_comment = job_desc.admin_comment or ""
  return json.with_member(own_comment:find("%S") and own_comment or "{}", router.ADMIN_COMMENT_KEY,
    "{" .. table.concat(members, ",") .. "}")
end

--- Returns the fields of a DecideRequest. `cluster_name` is this cluster's, nil where it is not known; `part_list` has
-- the partitions that the user may use.
function router.request(job_desc, cluster_name, part_list)
  local script = job_desc.script
  local shared = job_desc.shared
  local requests, scopes = tres(job_desc)
  local request = {
    user_id = job_desc.user_id,
    has_script = script ~= nil,
    time_limit_min = job_desc.time_limit == INFINITE and INFINITE or number_set(job_desc.time_limit, NO_VAL),
    -- These two are nil where unset. Do not read pn_min_memory: a Lua 5.1 number cannot hold its MEM_PER_CPU flag.
    memory_per_node_mib = job_desc.min_mem_per_node,
    memory_per_cpu_mib = job_desc.min_mem_per_cpu,
    asks_all_memory = job_desc.min_mem_per_node == 0,
    tres = requests,
    tres_scopes = scopes,
    open_partitions = names(part_list),
    burst_buffer = job_desc.burst_buffer or burst_buffer_directive(script),
    begin_time_s = job_desc.begin_time,
    is_held = job_desc.priority == 0,
    is_het = is_het(job_desc),
    is_exclusive = shared ~= nil and shared < NO_VAL16 and shared ~= JOB_SHARED_OK,
    odd_options = odd_options(job_desc, cluster_name),
    overspill_option = overspill_option(job_desc),
    image = image_option(job_desc),
    is_cron = job_desc.cron_job and true or false,
  }
  for name, field in pairs(STRING_FIELDS) do
    request[name] = job_desc[field]
  end
  for name, field in pairs(UINT16_FIELDS) do
    request[name] = number_set(job_desc[field], NO_VAL16)
  end
  for name, field in pairs(UINT32_FIELDS) do
    request[name] = number_set(job_desc[field], NO_VAL)
  end
  return request
end

function router.encode_request(request)
  return protobuf.encode(router.REQUEST_SCHEMA, request)
end

--- Raises the failure "protocol" for bytes that are no DecideResponse.
function router.decode_response(bytes)
  return protobuf.decode(router.RESPONSE_SCHEMA, bytes)
end

-- Fields that keep the defaults of the job's own partition, where the user asked for nothing.
local function pins(response, job_desc)
  local fields = {}
  if response.time_limit_min > 0 and (job_desc.time_limit or NO_VAL) == NO_VAL then
    fields.time_limit = response.time_limit_min
  end
  if response.cpus_per_gpu > 0 and (job_desc.cpus_per_tres or "") == "" then
    fields.cpus_per_tres = PER_GPU .. response.cpus_per_gpu
  end
  if job_desc.min_mem_per_node or job_desc.min_mem_per_cpu or (job_desc.mem_per_tres or "") ~= "" then
    return fields
  end
  if response.memory_per_gpu_mib > 0 then
    fields.mem_per_tres = PER_GPU .. response.memory_per_gpu_mib
  elseif response.memory_per_cpu_mib > 0 then
    fields.min_mem_per_cpu = response.memory_per_cpu_mib
  elseif response.memory_per_node_mib > 0 then
    fields.min_mem_per_node = response.memory_per_node_mib
  end
  return fields
end

-- `part_list` holds the partitions that this user may use; a name beyond it would make Slurm reject the job.
local function may_use_all(partitions, part_list)
  for name in partitions:gmatch("[^,]+") do
    if not part_list[name] then
      return false
    end
  end
  return partitions ~= ""
end

local function divert(response, job_desc, part_list)
  local own_comment = job_desc.admin_comment or ""
  local object = own_comment:find("%S") and own_comment or "{}"
  local comment = json.is_object(response.admin_comment)
    and json.with_member(object, router.ADMIN_COMMENT_KEY, response.admin_comment)
  if not comment then
    return { verdict = "local", problem = "admin_comment is not a JSON object" }
  elseif not may_use_all(response.partition, part_list) then
    return { verdict = "local", problem = "partition " .. response.partition .. " is not open to the user" }
  end
  local fields = pins(response, job_desc)
  fields.admin_comment = comment
  return { verdict = "divert", fields = fields, partition = response.partition, message = response.user_message }
end

--- Returns what to do with the job:
-- { verdict = "local" | "divert" | "refuse", message = one line for the user or "",
--   fields = what to set in job_desc, partition = what to set last, problem = why a diversion could not be applied }.
-- An admin_comment of the site's own that is no JSON object is never touched: such a job runs locally, because a
-- diverted job that does not show its decision could not be told from one that the user sent there.
function router.action(response, job_desc, part_list)
  if response.verdict == VERDICT_REFUSE then
    local message = response.user_message
    return { verdict = "refuse", message = message ~= "" and message or "overspill: this job cannot run there" }
  elseif response.verdict == VERDICT_DIVERT then
    return divert(response, job_desc, part_list)
  end
  return { verdict = "local", message = response.user_message }
end

return router
