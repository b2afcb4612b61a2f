-- SPDX-License-Identifier: Apache-2.0
-- Runs job_submit.lua as slurmctld does, without slurmctld:  lua harness.lua JOB_SUBMIT.LUA SCENARIOS.LUA
--
-- SCENARIOS.LUA returns a list of tables:
--   slurm = "22.05" or "23.02"    which of Slurm's two faces is imitated (default 22.05)
--   toml = path                   hpcnet.toml
--   call = "submit" or "modify" or "site" or "load"
--   desc, rec = fields            of job_desc and job_rec; what is missing is nil, as in Slurm
--   parts = { name = fields }     of part_list
--   uid, slurm_uid = number       who calls; who SlurmUser is
--   before = Lua text             run after loading, with hpcnet and slurm in scope
-- Prints a JSON list: { code, desc, user = messages, log = messages, raised }.

local ipairs = ipairs -- a scenario may break the script's
local script, scenarios_path = assert(loadfile(arg[1])), arg[2]
local NO_VAL, NO_VAL16 = 4294967294, 65534

-- Fields that job_submit/lua lets a script set (22.05 and later), and those it can only read.
local SETTABLE = { account = true, comment = true, extra = true, licenses = true, partition = true, qos = true }
local READABLE = {
   default_account = true, default_qos = true, het_job_offset = true, max_nodes = true, min_nodes = true,
   network = true, req_nodes = true, reservation = true, user_id = true, job_state = true, job_id = true,
   script = true, environment = true, -- both of batch jobs only
}
local NUMBERS = { het_job_offset = NO_VAL, max_nodes = NO_VAL, min_nodes = NO_VAL }

-- Strings are latin-1 in the output, so that the reader has the bytes back; an empty table is {}.
local function json(value)
   if type(value) == "string" then
      return '"' .. value:gsub('[%c"\\\127-\255]', function(byte) return ("\\u%04x"):format(byte:byte()) end) .. '"'
   elseif type(value) == "number" then
      return ("%d"):format(value)
   elseif type(value) ~= "table" then
      return tostring(value)
   end
   local parts = {}
   for _, entry in ipairs(value) do parts[#parts + 1] = json(entry) end
   if #parts > 0 then return "[" .. table.concat(parts, ",") .. "]" end
   for key, entry in pairs(value) do parts[#parts + 1] = json(tostring(key)) .. ":" .. json(entry) end
   return "{" .. table.concat(parts, ",") .. "}"
end

local function fake_slurm(version, said)
   local slurm = {
      ERROR = -1, FAILURE = -1, SUCCESS = 0, NO_VAL = NO_VAL, NO_VAL16 = NO_VAL16,
      ESLURM_ACCESS_DENIED = 2002, ESLURM_INVALID_NODE_COUNT = 2006, ESLURM_INVALID_LICENSES = 2048,
   }
   slurm.reservations = { maintenance = { partition = "debug" }, anywhere = {} }
   if version ~= "22.05" then slurm.SLURM_SUCCESS, slurm.SLURM_ERROR = 0, -1 end
   function slurm.log_user(...) said.user[#said.user + 1] = string.format(...) end
   for _, level in ipairs({ "error", "info", "debug" }) do
      slurm["log_" .. level] = function(...) said.log[#said.log + 1] = string.format(...) end
   end
   return slurm
end

-- An empty table whose metatable reaches the fields, as Slurm's; strings of length 0 become NULL when set.
local function record(fields, said, writable)
   local proxy = setmetatable({}, {
      __index = function(_, name)
         assert(type(name) == "string")
         if fields[name] == nil then return NUMBERS[name] end
         return fields[name]
      end,
      __newindex = function(_, name, value)
         if not writable or not SETTABLE[name] then
            said.log[#said.log + 1] = "_set_job_field: unrecognized field: " .. name
            return
         end
         assert(type(value) == "string" or type(value) == "number", "bad argument: string expected")
         value = tostring(value)
         fields[name] = value ~= "" and value or nil
      end,
   })
   for name in pairs(fields) do assert(SETTABLE[name] or READABLE[name], "the harness has no field " .. name) end
   return proxy
end

local function play(scenario)
   local said = { user = {}, log = {} }
   local known = {}
   for name in pairs(_G) do known[name] = true end
   local whole = _G.ipairs
   slurm = fake_slurm(scenario.slurm or "22.05", said)
   script()
   local result = { globals = {} }
   for name in pairs(_G) do
      if not known[name] and name ~= "slurm" then result.globals[#result.globals + 1] = name end
   end
   table.sort(result.globals)
   if scenario.toml then hpcnet.config_file = scenario.toml end
   if scenario.built then hpcnet.built = scenario.built end
   hpcnet.slurm_user = function() return scenario.slurm_uid or 64030 end
   if scenario.before then assert((loadstring or load)(scenario.before))() end

   local desc, parts = scenario.desc or {}, {}
   for name, fields in pairs(scenario.parts or {}) do
      parts[name] = setmetatable({}, { __index = function(_, field) return fields[field] end })
   end
   local job_desc, done, value = record(desc, said, true), true, nil
   if scenario.call == "site" then
      done, value = pcall(hpcnet.site)
      if done then result.site, value = value, 0 elseif type(value) == "table" then value = value.refusal end
   elseif scenario.call == "modify" then
      done, value = pcall(slurm_job_modify, job_desc, record(scenario.rec, said), parts, scenario.uid or 1000)
   elseif scenario.call ~= "load" then
      done, value = pcall(slurm_job_submit, job_desc, parts, scenario.uid or 1000)
   end
   if done then result.code = value else result.raised = tostring(value) end
   result.desc, result.user, result.log = desc, said.user, said.log
   _G.ipairs = whole
   hpcnet, slurm_job_submit, slurm_job_modify, slurm = nil, nil, nil, nil
   return json(result)
end

local results = {}
for _, scenario in ipairs(dofile(scenarios_path)) do results[#results + 1] = play(scenario) end
print("[" .. table.concat(results, ",\n") .. "]")
