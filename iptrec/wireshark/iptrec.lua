-- Fields of Wireshark for what iptrec tells of a packet: iptrec.verdict, iptrec.chain, iptrec.rule_text, ...
--
-- `iptrec export pcapng` and `iptrec trace --pcapng` give each packet a comment for programs beside the one for
-- people; iptrec/views/pcapng_fields.py writes it. Here it becomes a tree. A comment that is not exactly of that
-- form is somebody else's, and nothing is said of it. Runs in Lua 5.2 (Wireshark 4.0, 4.2) and 5.4 (from 4.4 on);
-- reads and writes no file and starts nothing.

set_plugin_info({
  version = "1", -- of the comment's form
  description = "Fields of what iptrec recorded: verdict, chains and rules of each packet",
  repository = "iptrec",
})

-- It may be installed for all users and for this one.
local first, iptrec = pcall(Proto, "iptrec", "iptrec: the way through netfilter's rules")
if not first then
  return
end

local of_packet = {
  verdict = ProtoField.string("iptrec.verdict", "Verdict"),
  decided_by = ProtoField.string("iptrec.decided_by", "Decided by"),
  by_table = ProtoField.string("iptrec.decided_by.table", "Table"),
  by_chain = ProtoField.string("iptrec.decided_by.chain", "Chain"),
  by_rule = ProtoField.uint32("iptrec.decided_by.rule", "Rule"),
  by_rule_text = ProtoField.string("iptrec.decided_by.rule_text", "Rule text"),
  complete = ProtoField.bool("iptrec.complete", "Complete"),
  ambiguous = ProtoField.bool("iptrec.ambiguous", "Ambiguous"),
  reason = ProtoField.string("iptrec.reason", "Reason"),
  end_ = ProtoField.string("iptrec.end", "End behind the rules"),
  end_text = ProtoField.string("iptrec.end.text", "Text"),
  number = ProtoField.uint64("iptrec.number", "Packet number in the recording"),
  host = ProtoField.string("iptrec.host", "Host"),
  netns = ProtoField.string("iptrec.netns", "Network namespace"),
}
local of_step = {
  step = ProtoField.string("iptrec.step", "Step"),
  table = ProtoField.string("iptrec.table", "Table"),
  chain = ProtoField.string("iptrec.chain", "Chain"),
  rule = ProtoField.uint32("iptrec.rule", "Rule"),
  rule_text = ProtoField.string("iptrec.rule_text", "Rule text"),
  target = ProtoField.string("iptrec.target", "Target"),
  backend = ProtoField.string("iptrec.backend", "Backend"),
  more = ProtoField.uint32("iptrec.more_steps", "Further steps that did not fit"),
}
local fields = {}
for _, group in ipairs({ of_packet, of_step }) do
  for _, one in pairs(group) do
    fields[#fields + 1] = one
  end
end
iptrec.fields = fields

local comments = Field.new("frame.comment")
local packet_id = Field.new("frame.packet_id")

local BEGIN = "^iptrec:(%d+)%?"
local VERSION = "1"
local NONE = "!" -- of a part of a step: there is none
local MOST_NUMBER = 4294967295
local MOST_KEPT = 1000000 -- bytes of comments whose meaning is kept: packets of a path have the same one

-- Without the characters of well-formed UTF-8 (Unicode, table 3-7) no byte beyond ASCII is left.
local SEQUENCES = {
  "\240[\144-\191][\128-\191][\128-\191]", "[\241-\243][\128-\191][\128-\191][\128-\191]",
  "\244[\128-\143][\128-\191][\128-\191]",
  "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]", "\237[\128-\159][\128-\191]",
  "[\194-\223][\128-\191]",
}

local function is_utf8(value)
  if not value:find("[\128-\255]") then
    return true
  end
  for _, one in ipairs(SEQUENCES) do
    value = value:gsub(one, " ")
  end
  return not value:find("[\128-\255]")
end

-- A value as it was before it was written with %XX; nil where it is not of that form. Control characters were
-- made visible by the writer.
local function decoded(value)
  if value:gsub("%%%x%x", ""):find("[^A-Za-z0-9 #$'()*+,%-.:;<>@%[%]^_`{|}~]") then
    return nil
  end
  local found = value:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end)
  if found:find("%c") or not is_utf8(found) then
    return nil
  end
  return found
end

local function number(value)
  local found = value:find("^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?$") and tonumber(value)
  if not found or found > MOST_NUMBER then
    return nil
  end
  return found
end

-- How the readers of values, by name, tell nil from "not of the form": they return false for the latter.
local function text(value)
  return decoded(value) or false
end

local function count(value)
  return number(value) or false
end

local function flag(value)
  if value == "1" then
    return { true }
  end
  return value == "0" and { false } or false
end

-- "a/b/c" as a list of decoded parts with as many as are wanted; NONE is false. nil: not of the form.
local function parts(value, wanted)
  local found = {}
  for one in (value .. "/"):gmatch("([^/]*)/") do
    local part = false
    if one ~= NONE then
      part = decoded(one)
      if not part then
        return nil
      end
    end
    found[#found + 1] = part
  end
  if #found ~= wanted then
    return nil
  end
  return found
end

local function decider(value)
  local found = parts(value, 3)
  if not (found and found[1] and found[2] and found[3]) then
    return false
  end
  local what = found[3]
  local one = { table = found[1], chain = found[2], rule = number(what) }
  if one.rule then
    one.name, one.words = what, "rule " .. what
  elseif what == "policy" then
    one.name, one.words = what, what
  elseif what == "unlisted" then
    one.name, one.words = what, "rule (not in the recorded ruleset)"
  else
    return false
  end
  return one
end

local NAMES = { -- of types of steps: in iptrec.step and in words, where there is a number and where not
  rule = { "%s", "rule %s", "unlisted", "rule (not in the recorded ruleset)" },
  match = { "match of %s", "match of rule %s", "match", "match of a rule" },
  unknown = { "%s or end", "rule %s or end", "rule or end", "a rule or the end" },
  policy = { "policy", "policy", "policy", "policy" },
  ["return"] = { "return", "return", "return", "return" },
}

local function step(value)
  local found = parts(value, 7)
  if not (found and found[1] and found[2] and found[3] and found[6]) then
    return false
  end
  local named = NAMES[found[3]]
  local one = {
    table = found[1], chain = found[2], type = found[3], rule = found[4] and number(found[4]),
    target = found[5], backend = found[6], rule_text = found[7],
  }
  if not named or found[4] and not one.rule then
    return false
  end
  if one.rule then
    one.name, one.words = named[1]:format(found[4]), named[2]:format(found[4])
  else
    one.name, one.words = named[3], named[4]
    if one.type == "rule" and one.rule_text then
      one.name, one.words = "own", "rule (iptrec's own)"
    end
  end
  return one
end

local READERS = {
  verdict = text, complete = flag, ambiguous = flag, host = text, netns = text, reason = text,
  ["end"] = text, end_text = text, rule_text = text, decided_by = decider, more = count,
}

-- All that a comment says, with the list `steps`; nil where it is not of the form.
local function parsed(comment)
  local found = { steps = {} }
  for pair in (comment:gsub(BEGIN, "") .. "&"):gmatch("([^&]*)&") do
    local name, value = pair:match("^([%l_]+)=(.*)$")
    if not name then
      return nil
    end
    if name == "step" then
      local one = step(value)
      if not one then
        return nil
      end
      found.steps[#found.steps + 1] = one
    elseif READERS[name] then -- what a later iptrec adds is passed over
      local one = READERS[name](value)
      if found[name] ~= nil or one == false then
        return nil
      end
      found[name] = one
    end
  end
  if not (found.verdict and found.verdict ~= "" and found.complete and found.ambiguous) then
    return nil
  end
  return found
end

local known, kept = {}, 0

local function remembered(comment)
  local found = known[comment]
  if found == nil then
    kept = kept + #comment
    if kept > MOST_KEPT then
      known, kept = {}, #comment
    end
    found = parsed(comment) or false
    known[comment] = found
  end
  return found
end

-- "DROP by filter/FORWARD rule 3 (incomplete)"
local function sentence(all)
  local words = { all.verdict }
  local by = all.decided_by
  if by then
    words[#words + 1] = ("by %s/%s %s"):format(by.table, by.chain, by.words)
  elseif all.verdict == "DISCARDED" then
    words[#words + 1] = all["end"] and ("by the kernel (%s)"):format(all["end"]) or "by the kernel"
  end
  local doubts = {}
  if not all.complete[1] then
    doubts[#doubts + 1] = "incomplete"
  end
  if all.ambiguous[1] then
    doubts[#doubts + 1] = "ambiguous"
  end
  if #doubts > 0 then
    words[#words + 1] = ("(%s)"):format(table.concat(doubts, " and "))
  end
  return table.concat(words, " ")
end

local function add(tree, field, value)
  if value ~= nil and value ~= false then
    return tree:add(field, value):set_generated()
  end
end

local function add_step(tree, one)
  local f = of_step
  local label = ("%s/%s %s"):format(one.table, one.chain, one.words)
  local said = one.rule_text or one.target
  local below = tree:add(f.step, ("%s/%s/%s"):format(one.table, one.chain, one.name))
  below:set_text(said and ("%s: %s"):format(label, said) or label):set_generated()
  add(below, f.table, one.table)
  add(below, f.chain, one.chain)
  add(below, f.rule, one.rule)
  add(below, f.rule_text, one.rule_text)
  add(below, f.target, one.target)
  add(below, f.backend, one.backend)
end

-- Whether a filter, a column or somebody who looks at the tree asks for the steps: they are most of the work.
local function steps_wanted(tree)
  for _, one in pairs(of_step) do
    if tree:referenced(one) then
      return true
    end
  end
  return false
end

local function add_all(tree, all)
  local f = of_packet
  local top = tree:add(iptrec, "iptrec: " .. sentence(all)):set_generated()
  add(top, f.verdict, all.verdict)
  local by = all.decided_by
  if by then
    local below = add(top, f.decided_by, ("%s/%s/%s"):format(by.table, by.chain, by.name))
    add(below, f.by_table, by.table)
    add(below, f.by_chain, by.chain)
    add(below, f.by_rule, by.rule)
    add(below, f.by_rule_text, all.rule_text)
  end
  if steps_wanted(top) then
    for _, one in ipairs(all.steps) do
      add_step(top, one)
    end
    add(top, of_step.more, all.more)
  end
  top:add(f.complete, all.complete[1]):set_generated()
  top:add(f.ambiguous, all.ambiguous[1]):set_generated()
  add(top, f.reason, all.reason)
  local ended = add(top, f.end_, all["end"])
  if ended then
    add(ended, f.end_text, all.end_text)
  end
  local id = packet_id()
  add(top, f.number, id and id.value)
  add(top, f.host, all.host)
  add(top, f.netns, all.netns)
end

function iptrec.dissector(_, _, tree)
  local found, version
  for _, one in ipairs({ comments() }) do
    local comment = one.value
    local known_as = type(comment) == "string" and comment:match(BEGIN)
    if known_as then
      if version then -- which of them is iptrec's nobody knows
        tree:add(iptrec, "iptrec: two comments with fields; neither is believed"):set_generated()
        return
      end
      found, version = comment, known_as
    end
  end
  if not version then
    return
  end
  if version ~= VERSION then
    tree:add(iptrec, "iptrec: fields of a newer iptrec; install its plugin"):set_generated()
    return
  end
  local all = remembered(found)
  if all then
    add_all(tree, all)
  end
end

register_postdissector(iptrec)
