-- SPDX-License-Identifier: Apache-2.0
-- hpcnet at submit: checks --network=ib, applies the site's policy, stamps the request on the job record.
--
-- Alone: as job_submit.lua beside slurm.conf, with JobSubmitPlugins=lua. With a script of the site's own:
--     dofile("/opt/hpcnet/share/hpcnet/job_submit.lua")
--     function slurm_job_submit(job_desc, part_list, submit_uid)
--        local code = hpcnet.job_submit(job_desc, part_list, submit_uid)
--        if code ~= slurm.SUCCESS then return code end
--        ...
--     end
-- and the same for slurm_job_modify and hpcnet.job_modify; call ours last if yours writes comment, extra or licenses.
-- Slurm reads its job_submit.lua again only when that file's time changes: touch it after an upgrade of this one.
--
-- Runs on Lua 5.1 to 5.4, Slurm 22.05 and later. Jobs that do not ask for a network pass as they are, except that
-- words with "hpcnet:" in them leave their comment and extra: such a word is how a request and its lease travel.
-- [submit] default_partitions: a job whose partitions are all of these, and without --network, gets the default
-- network if the policy lets it; if not, it runs without one. --network=none declines it.

local M = { config_file = "/etc/hpcnet/hpcnet.toml" }
M.built = { modes = { "vxlan", "direct" }, egress = { "host", "none" } } -- what this version can build (config.py)

local WORD, TOKEN = "ib", "hpcnet:"
local FIELD_LIMIT, ROOM = 1024, 512 -- of comment and extra; of it, kept for the final token
local MTU_MIN, MTU_MAX, DATAGRAM_MTU_MAX, VXLAN_OVERHEAD, ENDPOINTS_MAX = 1280, 65520, 4092, 50, 1024
local MODES, IPOIB_MODES = { "vxlan", "direct" }, { "datagram", "connected" }
local JOINS, EGRESSES, ENVS = { "tasks", "none" }, { "host", "none" }, { "site", "none" }

-- A refusal is an error whose value is this table: what the user reads, and Slurm's code for it.
local function refuse(text, code)
   error({ refusal = "--network=" .. WORD .. ": " .. text, code = code }, 0)
end

local function site_error(text)
   refuse("not available now, tell the site's admins: " .. text)
end

local function has(list, wanted)
   for _, entry in ipairs(list) do
      if entry == wanted then return true end
   end
   return false
end

local function split(text) -- at commas
   local parts = {}
   for part in (text .. ","):gmatch("([^,]*),") do parts[#parts + 1] = part end
   return parts
end

local function quoted(word)
   local shown = word:sub(1, 32):gsub("[^ -~]", function(byte) return ("\\x%02x"):format(byte:byte()) end)
   return '"' .. shown .. (#word > 32 and "..." or "") .. '"'
end

local function read_file(path)
   local file, why = io.open(path, "r")
   if not file then return nil, why end
   local text = file:read("*a")
   file:close()
   return text, path .. ": cannot be read"
end

-- The --network grammar; hpcnet/request.py is its twin, tests/grammar the table that binds them ---------------------

local function one_of(choices)
   local function read(value) return has(choices, value) and value or nil end
   return { read = read, meaning = table.concat(choices, " or ") }
end

local function integer(low, high)
   return {
      read = function(value)
         local number = value:match("^[1-9][0-9]*$") and #value <= 9 and tonumber(value)
         return number and number >= low and number <= high and number or nil
      end,
      meaning = ("an integer from %d to %d"):format(low, high),
   }
end

local function power_of_two(number)
   local power = 1
   while power < number do power = power * 2 end
   return power
end

local function read_endpoints(value)
   local number = integer(1, ENDPOINTS_MAX).read(value)
   return number and power_of_two(number)
end

local function read_pkey(value)
   if value == "auto" then return value end
   local digits = value:match("^0x([0-9a-f]+)$")
   if not digits or #digits > 4 then return nil end
   local key = tonumber(digits, 16) % 0x8000
   return key ~= 0 and ("0x%04x"):format(key + 0x8000) or nil
end

local KEYS = { "mode", "mtu", "pkey", "ipoib", "endpoints", "join", "egress", "docker", "env" }
local GRAMMAR = {
   mode = one_of(MODES),
   mtu = integer(MTU_MIN, MTU_MAX),
   pkey = { read = read_pkey, meaning = "a partition key such as 0x8001, or auto" },
   ipoib = one_of(IPOIB_MODES),
   endpoints = { read = read_endpoints, meaning = integer(1, ENDPOINTS_MAX).meaning },
   join = one_of(JOINS),
   egress = one_of(EGRESSES),
   docker = one_of({ "yes", "no" }),
   env = one_of(ENVS),
}

local function is_ours(option)
   return option ~= nil and (option == WORD or option:sub(1, #WORD + 1) == WORD .. ",")
end

local function read_pair(part)
   if part == "" then refuse("an empty part between commas; write " .. WORD .. "[,key=value]...") end
   local key, value = part:match("^([^=]*)=?(.*)$")
   local rule = GRAMMAR[key]
   local function lower(word) return word:find("[A-Z]") and ", in lower case" or "" end
   if not rule then
      refuse(("unknown key %s; known%s: %s"):format(quoted(key), lower(key), table.concat(KEYS, ", ")))
   end
   local read = rule.read(value)
   if not read then refuse(("%s=%s: must be %s%s"):format(key, quoted(value), rule.meaning, lower(value))) end
   return key, read
end

local function parse(option)
   if #option > 256 then refuse(("the option is %d bytes long; at most 256"):format(#option)) end
   local request = {}
   for position, part in ipairs(split(option)) do
      if position > 1 then
         local key, value = read_pair(part)
         if request[key] ~= nil then refuse(key .. " is given twice") end
         request[key] = value
      end
   end
   return request
end

local function canonical(request)
   local said = {}
   for _, key in ipairs(KEYS) do
      if request[key] ~= nil then said[#said + 1] = ("%s=%s"):format(key, tostring(request[key])) end
   end
   return table.concat(said, ",")
end

local function not_offered(key, value, offered)
   local list = #offered > 0 and table.concat(offered, ", ") or "nothing"
   refuse(("%s=%s is not offered here; offered: %s"):format(key, value, list))
end

local function mtu_limit(mode, ipoib, uplink_mtu)
   if ipoib == "connected" then return MTU_MAX end
   local largest = math.min(uplink_mtu or MTU_MAX, MTU_MAX)
   if ipoib == "datagram" then return math.min(largest, DATAGRAM_MTU_MAX) end
   return largest - (mode == "vxlan" and VXLAN_OVERHEAD or 0)
end

local function check_pkey(pkey, offer, direct)
   local pkeys = {}
   if direct.allow_shared then
      for _, key in ipairs(offer.pkeys) do pkeys[#pkeys + 1] = key end
   end
   if #direct.pkey_pool > 0 then pkeys[#pkeys + 1] = "auto" end
   if not has(pkeys, pkey) then not_offered("pkey", pkey, pkeys) end
end

local function check(request, site)
   local offer, mode = site.offer, request.mode or site.defaults.mode
   if request.mode and not has(offer.modes, request.mode) then not_offered("mode", request.mode, offer.modes) end
   for _, key in ipairs({ "pkey", "ipoib" }) do
      if request[key] and mode ~= "direct" then
         refuse(("%s=%s needs mode=direct; here it would be mode=%s"):format(key, request[key], mode))
      end
   end
   if request.pkey then check_pkey(request.pkey, offer, site.direct) end
   local largest = mtu_limit(mode, request.ipoib, site.fabric.mtu)
   if request.mtu and request.mtu > largest then
      local what = request.ipoib and "ipoib=" .. request.ipoib or "mode=" .. mode
      refuse(("mtu=%d is too large for %s here; at most %d"):format(request.mtu, what, largest))
   end
   if request.endpoints and request.endpoints > offer.max_endpoints then
      local message = "endpoints=%d (a power of two) is more than is offered here; at most %d"
      refuse(message:format(request.endpoints, offer.max_endpoints))
   end
   if request.egress and not has(offer.egress, request.egress) then
      not_offered("egress", request.egress, offer.egress)
   end
   if request.docker == "yes" and not offer.docker then not_offered("docker", "yes", { "no" }) end
end

-- hpcnet.toml; hpcnet/config.py is the authority, this reads what a submit needs --------------------------------------

local function any() return true end
local function a_boolean(value) return type(value) == "boolean" end
local function a_number(low, high)
   return function(value) return type(value) == "number" and value >= low and value <= high end
end
local function a_choice(choices)
   return function(value) return type(value) == "string" and has(choices, value) end
end
local function a_text(pattern)
   return function(value) return type(value) == "string" and value:find("^" .. pattern .. "$") ~= nil end
end
local function a_list(check_entry)
   return function(value)
      if type(value) ~= "table" then return false end
      for _, entry in ipairs(value) do
         if not check_entry(entry) then return false end
      end
      return true
   end
end

local NAMES = a_list(a_text("[%w_.@-]+"))
local PKEYS = a_list(a_text("0x[89a-f][0-9a-f][0-9a-f][0-9a-f]"))
local SITE = { -- section -> key -> { its check, its default }; any: not ours to judge
   fabric = {
      uplink = { any }, mtu = { a_number(1330, 65535) }, peers = { any }, peers_file = { any },
      peers_name = { any }, peers_base = { any }, vxlan_port = { any },
   },
   pool = { vni = { any }, ipv4 = { any }, ipv6 = { any }, store = { any }, cooldown = { any }, wait = { any } },
   direct = { allow_shared = { a_boolean, false }, pkey_pool = { PKEYS, {} }, ipv4 = { any }, ipv6 = { any } },
   defaults = {
      mode = { a_choice(MODES), "vxlan" },
      endpoints = { a_number(1, ENDPOINTS_MAX), 8 },
      join = { a_choice(JOINS), "tasks" },
      egress = { a_choice(EGRESSES), "host" },
      docker = { a_boolean, false },
      env = { a_choice(ENVS), "site" },
   },
   offer = {
      modes = { a_list(function(value) return has(M.built.modes, value) end), { "vxlan" } },
      egress = { a_list(function(value) return has(M.built.egress, value) end), { "host", "none" } },
      docker = { a_boolean, false },
      max_endpoints = { a_number(1, ENDPOINTS_MAX), 64 },
      pkeys = { PKEYS, {} },
   },
   submit = {
      record = { a_choice({ "auto", "extra", "comment" }), "auto" },
      licence = { a_text("[%w_.@-]*"), "" },
      accounts = { NAMES, {} },
      partitions = { NAMES, {} },
      qos = { NAMES, {} },
      default_partitions = { NAMES, {} },
   },
   egress = { resolv_conf = { any } },
   docker = { socket = { any }, deadline = { any } },
   agent = { metrics = { any }, host = { any }, token_file = { any } },
   hooks = { deadline = { any }, log = { any }, accounts = { any } },
   environment = setmetatable({}, { __index = function() return { any } end }), -- any variable
}

-- One string, integer or boolean at a position of a line -> value, position behind it; nil: neither.
local function toml_scalar(line, at)
   local text, behind = line:match('^"([^"\\%c]*)"()', at)
   if not text then text, behind = line:match("^'([^'%c]*)'()", at) end
   if text then return text, behind end
   local word
   word, behind = line:match("^([%w_+-]+)()", at)
   if word == "true" or word == "false" then return word == "true", behind end
   local digits = word and word:match("^[+-]?(%d[%d_]*)$")
   if digits and not digits:find("^0.") and not digits:find("__") and not digits:find("_$") then
      return tonumber((word:gsub("[_+]", ""))), behind
   end
end

local function toml_value(line, at)
   if line:sub(at, at) ~= "[" then return toml_scalar(line, at) end
   local list = {}
   at = line:match("^%s*()", at + 1)
   while line:sub(at, at) ~= "]" do
      local value, behind = toml_scalar(line, at)
      if value == nil then return nil end
      list[#list + 1] = value
      local comma
      comma, at = line:match("^%s*(,?)%s*()", behind)
      if comma == "" and line:sub(at, at) ~= "]" then return nil end
   end
   return list, at + 1
end

-- section -> key -> value of a text; raises a refusal that names the line.
local function toml(text)
   local document, section, number = {}, nil, 0
   for line in (text .. "\n"):gmatch("(.-)\r?\n") do
      number = number + 1
      local function bad(what) site_error(("%s line %d: %s"):format(M.config_file, number, what)) end
      local name = line:match("^%s*%[%s*([%w_-]+)%s*%]%s*$") or line:match("^%s*%[%s*([%w_-]+)%s*%]%s*#")
      local key, at = line:match("^%s*([%w_-]+)%s*=%s*()")
      if name then
         if document[name] then bad("section [" .. name .. "] is there twice") end
         section = {}
         document[name] = section
      elseif key then
         local value, behind = toml_value(line, at)
         if value == nil or not line:find("^%s*$", behind) and not line:find("^%s*#", behind) then
            bad("not key = value on one line")
         end
         if section == nil then bad(key .. " is outside a section") end
         if section[key] ~= nil then bad(key .. " is there twice") end
         section[key] = value
      elseif not line:find("^%s*$") and not line:find("^%s*#") then
         bad("not key = value on one line")
      end
   end
   return document
end

local function check_together(site)
   local offer, defaults, direct = site.offer, site.defaults, site.direct
   local function bad(what) site_error(M.config_file .. ": " .. what) end
   if not has(offer.modes, defaults.mode) then bad("[defaults] mode is not among [offer] modes") end
   if not has(offer.egress, defaults.egress) then bad("[defaults] egress is not among [offer] egress") end
   if has(offer.modes, "direct") and not direct.allow_shared and #direct.pkey_pool == 0 then
      bad("[offer] modes has direct, but [direct] neither allow_shared nor pkey_pool")
   end
   for _, pkey in ipairs(offer.pkeys) do
      if has(direct.pkey_pool, pkey) then bad(pkey .. " is in [offer] pkeys and in [direct] pkey_pool") end
   end
   if defaults.docker and not offer.docker then bad("[defaults] docker = true, but [offer] docker = false") end
   if defaults.endpoints > offer.max_endpoints then bad("[defaults] endpoints is above [offer] max_endpoints") end
end

local function to_site(document)
   local site = {}
   for section, keys in pairs(SITE) do
      local given = document[section] or {}
      site[section] = {}
      for key, value in pairs(given) do
         local where = ("%s: [%s] %s"):format(M.config_file, section, key)
         if not keys[key] then site_error(where .. ": unknown key") end
         if not keys[key][1](value) then site_error(where .. ": bad value; hpcnet filter show says what is allowed") end
      end
      for key, rule in pairs(keys) do
         local value = given[key]
         if value == nil then value = rule[2] end
         site[section][key] = value
      end
   end
   for section in pairs(document) do
      if not SITE[section] then site_error(("%s: unknown section [%s]"):format(M.config_file, section)) end
   end
   check_together(site)
   return site
end

local cached_text, cached_site

-- The site's settings: the file is read at each call (a few microseconds), parsed when its text has changed.
function M.site()
   local text, why = read_file(M.config_file)
   if not text then site_error(why) end
   if text ~= cached_text then
      cached_site = to_site(toml(text))
      cached_text = text
   end
   return cached_site
end

-- The job record ------------------------------------------------------------------------------------------------------

local FIELDS = { "extra", "comment" } -- in the order in which the hooks look for the token

local function mentions_token(text)
   return text ~= nil and text:find(TOKEN, 1, true) ~= nil
end

local function without_token(text)
   return (text:gsub("%S+", function(word) return mentions_token(word) and "" or nil end))
end

-- A token is never taken from a user, also not in a text that is too long for Slurm.
local function strip(job_desc)
   for _, field in ipairs(FIELDS) do
      local text = job_desc[field]
      if mentions_token(text) then job_desc[field] = without_token(text) end
   end
end

-- The user's text and our token behind it; control characters must not forge lines in listings.
local function stamped(text, field, token)
   local own = #text <= FIELD_LIMIT and without_token(text:gsub("%c", " ")):match("^%s*(.-)%s*$") or text
   local most = FIELD_LIMIT - ROOM - 1
   if #own > most then refuse(("--%s is %d bytes long; with a job network at most %d"):format(field, #own, most)) end
   return own == "" and token or own .. " " .. token
end

-- Field and token of a job of ours; nil: not ours.
local function find_token(job_rec)
   for _, field in ipairs(FIELDS) do
      local found
      for word in (job_rec[field] or ""):gmatch("%S+") do
         if word:sub(1, #TOKEN) == TOKEN then found = word end
      end
      if found then return field, found end
   end
end

-- slurm.conf: SchedulerParameters=extra_constraints makes Slurm parse extra (23.11 and later). Unreadable: taken as on.
local function extra_constraints(path)
   local text = read_file(path)
   if not text then return true end
   for line in text:gmatch("[^\n]+") do
      line = line:gsub("#.*", "")
      if line:lower():find("extra_constraints", 1, true) then return true end
      local file = line:match("^%s*[Ii][Nn][Cc][Ll][Uu][Dd][Ee]%s+(%S+)")
      if file and file:sub(1, 1) ~= "/" then file = path:match("^(.*/)") .. file end
      if file and file ~= path and extra_constraints(file) then return true end
   end
   return false
end

-- From 23.02 on all of Slurm's error names are constants, job records have extra, and hooks see SLURM_JOB_EXTRA.
local function since_2302() return slurm.SLURM_SUCCESS ~= nil end

local function record_field(site)
   local wanted = site.submit.record
   if wanted == "extra" and not since_2302() then site_error('[submit] record = "extra" needs Slurm 23.02') end
   if wanted ~= "auto" then return wanted end
   local conf = os.getenv("SLURM_CONF") or "/etc/slurm/slurm.conf" -- slurmctld sets it
   return since_2302() and not extra_constraints(conf) and "extra" or "comment"
end

-- The site's policy ---------------------------------------------------------------------------------------------------

local function partitions_of(job_desc, part_list)
   if job_desc.partition then return job_desc.partition end
   local reservation = slurm.reservations and slurm.reservations[job_desc.reservation or ""]
   if reservation and reservation.partition then return reservation.partition end
   for name, partition in pairs(part_list) do
      if partition.flag_default == 1 then return name end
   end
   return ""
end

-- Each of the names a,b must be in the list; Slurm folds the case of accounts and QOS. An empty list: everybody.
local function require_allowed(what, list, names)
   local function fold(name) return what == "partition" and name or name:lower() end
   local allowed = {}
   for _, name in ipairs(list) do allowed[fold(name)] = true end
   for _, name in ipairs(split(names)) do
      if #list > 0 and not allowed[fold(name)] then
         local message = "%s %s may not have a job network; allowed: %s"
         refuse(message:format(what, quoted(name), table.concat(list, ", ")), slurm.ESLURM_ACCESS_DENIED)
      end
   end
end

-- The licences a:1,b of a job with one of ours; what the user wrote for ours is dropped.
local function with_licence(licences, ours)
   if licences:find("|", 1, true) then -- since 24.05; Slurm allows no list beside it
      refuse("--licenses with | cannot be had with a job network, which takes a licence too",
         slurm.ESLURM_INVALID_LICENSES)
   end
   local list = ("," .. licences .. ","):gsub("[,;]+", ",")
   list = list:gsub("," .. ours:gsub("[.@-]", "%%%0") .. "%f[:=,][^,]*", "")
   return (list .. "," .. ours .. ":1"):gsub("^,+", ""):gsub(",+", ",")
end

local function is_default(job_desc, part_list, site)
   if #site.submit.default_partitions == 0 then return false end
   for _, name in ipairs(split(partitions_of(job_desc, part_list))) do
      if not has(site.submit.default_partitions, name) then return false end
   end
   return true
end

-- Gives the job its request, or refuses before anything is changed.
local function grant(job_desc, part_list, site, request)
   local offset, policy, licences = job_desc.het_job_offset, site.submit, nil
   if offset ~= nil and offset ~= slurm.NO_VAL then
      refuse("a heterogeneous job cannot have a job network for now; submit one job, or several")
   end
   check(request, site)
   if #policy.accounts > 0 then
      require_allowed("account", policy.accounts, job_desc.account or job_desc.default_account or "")
   end
   require_allowed("partition", policy.partitions, partitions_of(job_desc, part_list))
   if #policy.qos > 0 then require_allowed("qos", policy.qos, job_desc.qos or job_desc.default_qos or "") end
   if policy.licence ~= "" then licences = with_licence(job_desc.licenses or "", policy.licence) end
   local field = record_field(site)
   local text = stamped(job_desc[field] or "", field, TOKEN .. "asked:" .. canonical(request))
   job_desc[field] = text
   if licences then job_desc.licenses = licences end
   -- So that the SPANK plugin stops the job on a node whose Prolog knows nothing of it (22.05's sbatch does not say).
   if job_desc.script then job_desc.environment.SLURM_NETWORK = WORD end
end

local reported -- the last trouble with the site's file that was logged

local function submit(job_desc, part_list)
   strip(job_desc)
   local option = job_desc.network
   if is_ours(option) then
      grant(job_desc, part_list, M.site(), parse(option))
   elseif option == nil or option == "" then
      local readable, site = pcall(M.site)
      if readable and is_default(job_desc, part_list, site) then
         local granted, why = pcall(grant, job_desc, part_list, site, {})
         if not granted then slurm.log_info("hpcnet: no default network: %s", why.refusal or tostring(why)) end
      elseif not readable and reported ~= site.refusal then
         reported = site.refusal
         slurm.log_error("hpcnet: %s", reported)
      end
   end
end

-- Changes of a job ----------------------------------------------------------------------------------------------------

local function refuse_changes(job_desc, job_rec, token)
   local option = job_desc.network
   if option ~= nil and not (is_ours(option) and canonical(parse(option)) == token:match(":%a+:([^:]*)")) then
      refuse("a job's network cannot be changed; submit it again", slurm.ESLURM_ACCESS_DENIED)
   end
   if job_desc.min_nodes ~= slurm.NO_VAL or job_desc.max_nodes ~= slurm.NO_VAL or job_desc.req_nodes then
      refuse("a job with a network cannot change its nodes; submit it again", slurm.ESLURM_INVALID_NODE_COUNT)
   end
end

local function modify(job_desc, job_rec)
   local field, token = find_token(job_rec)
   if not field and is_ours(job_desc.network) then
      refuse("a job gets its network when it is submitted; submit it again", slurm.ESLURM_ACCESS_DENIED)
   end
   if field then
      refuse_changes(job_desc, job_rec, token)
      local policy = (job_desc.account or job_desc.partition or job_desc.qos or job_desc.licenses) and M.site().submit
      if job_desc.account then require_allowed("account", policy.accounts, job_desc.account) end
      if job_desc.partition then require_allowed("partition", policy.partitions, job_desc.partition) end
      if job_desc.qos then require_allowed("qos", policy.qos, job_desc.qos) end
      local text = job_desc[field] and stamped(job_desc[field], field, token)
      if job_desc.licenses and policy.licence ~= "" then
         job_desc.licenses = with_licence(job_desc.licenses, policy.licence)
      end
      strip(job_desc)
      if text then job_desc[field] = text end
   else
      strip(job_desc)
   end
end

-- Root and SlurmUser may do all; but a comment that says nothing of ours does not take a job's network away.
local function keep_token(job_desc, job_rec)
   local field, token = find_token(job_rec)
   local text = field and job_desc[field]
   if text and not mentions_token(text) then job_desc[field] = stamped(text, field, token) end
end

-- What Slurm calls ----------------------------------------------------------------------------------------------------

-- Runs a hook and turns a refusal into a message and a code. A defect of this script stops only what is about us.
local function guarded(concerns_us, tell, hook, ...)
   local done, why = pcall(hook, ...)
   if done then return slurm.SUCCESS end
   if type(why) ~= "table" or not why.refusal then
      slurm.log_error("hpcnet: job_submit.lua failed: %s", tostring(why))
      local known, ours = pcall(concerns_us)
      if not (known and ours) then return slurm.SUCCESS end
      why = { refusal = "--network=" .. WORD .. ": not available now, tell the site's admins: job_submit.lua failed" }
   end
   tell("%s", why.refusal)
   return why.code or slurm.ERROR
end

local function carries_token(job) return mentions_token(job.comment) or mentions_token(job.extra) end
local function about_us(job_desc) return is_ours(job_desc.network) or carries_token(job_desc) end

function M.slurm_user() -- slurmctld runs as SlurmUser
   local status = read_file("/proc/self/status") or ""
   return tonumber(status:match("\nUid:%s+%d+%s+(%d+)"))
end

function M.job_submit(job_desc, part_list, submit_uid)
   local function concerns_us() return about_us(job_desc) end
   return guarded(concerns_us, slurm.log_user, submit, job_desc, part_list, submit_uid)
end

function M.job_modify(job_desc, job_rec, part_list, modify_uid)
   if modify_uid == 0 or modify_uid == M.slurm_user() then
      pcall(keep_token, job_desc, job_rec)
      return slurm.SUCCESS
   end
   local function concerns_us() return about_us(job_desc) or carries_token(job_rec) end
   local function tell(format, text) -- 22.05 shows the user nothing but the code
      local who = ("JobId=%d by uid %d"):format(job_rec.job_id, modify_uid)
      slurm.log_info("hpcnet: update of %s refused: %s", who, text)
      if since_2302() then slurm.log_user(format, text) end
   end
   return guarded(concerns_us, tell, modify, job_desc, job_rec, part_list)
end

hpcnet = M

function slurm_job_submit(job_desc, part_list, submit_uid)
   return hpcnet.job_submit(job_desc, part_list, submit_uid)
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
   return hpcnet.job_modify(job_desc, job_rec, part_list, modify_uid)
end
