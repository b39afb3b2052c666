--- Adds a member to a JSON object in text form. Nothing of the other members is touched: not a digit, not a blank.
-- Source: RFC 8259.

local json = {}

local MAX_DEPTH = 64

local skip_value

local function skip_space(text, position)
  return text:match("^[ \t\r\n]*()", position)
end

-- Each skip_… returns the position after what it skipped, or nil where that is not what stands there.
local function skip_string(text, position)
  if text:sub(position, position) ~= '"' then
    return nil
  end
  position = position + 1
  while true do
    local special = text:find('["\\\1-\31]', position)
    local char = special and text:sub(special, special)
    if char == '"' then
      return special + 1
    elseif char ~= "\\" then
      return nil
    end
    position = text:match('^\\["\\/bfnrt]()', special) or text:match("^\\u%x%x%x%x()", special)
    if not position then
      return nil
    end
  end
end

local function skip_number(text, position)
  position = text:match("^%-?0()", position) or text:match("^%-?[1-9]%d*()", position)
  if not position then
    return nil
  end
  position = text:match("^%.%d+()", position) or position
  return text:match("^[eE][+-]?%d+()", position) or position
end

-- Skips "{…}" or "[…]", whose items `skip_item` skips; it gets the position of each item's first character.
local function skip_items(text, position, closing, skip_item)
  position = skip_space(text, position + 1)
  if text:sub(position, position) == closing then
    return position + 1
  end
  while position do
    position = skip_item(skip_space(text, position))
    position = position and skip_space(text, position)
    local char = position and text:sub(position, position)
    if char == closing then
      return position + 1
    end
    position = char == "," and position + 1 or nil
  end
end

-- Skips `"key": value`; also returns the key as it is written, quotes and all.
local function skip_member(text, position, depth)
  local after_key = skip_string(text, position)
  local colon = after_key and text:match("^[ \t\r\n]*:()", after_key)
  if not colon then
    return nil
  end
  return skip_value(text, skip_space(text, colon), depth + 1), text:sub(position, after_key - 1)
end

function skip_value(text, position, depth)
  local char = text:sub(position, position)
  if depth > MAX_DEPTH then
    return nil
  elseif char == "{" then
    return skip_items(text, position, "}", function(at) return (skip_member(text, at, depth)) end)
  elseif char == "[" then
    return skip_items(text, position, "]", function(at) return skip_value(text, at, depth + 1) end)
  elseif char == '"' then
    return skip_string(text, position)
  end
  return text:match("^true()", position) or text:match("^false()", position) or text:match("^null()", position)
    or skip_number(text, position)
end

-- Returns the object's members as { key =, text = }, both as they are written; nil if `text` is no JSON object.
local function members_of(text)
  local start = skip_space(text, 1)
  if text:sub(start, start) ~= "{" then
    return nil
  end
  local members = {}
  local after = skip_items(text, start, "}", function(at)
    local next_position, key = skip_member(text, at, 1)
    if next_position then
      members[#members + 1] = { key = key, text = text:sub(at, next_position - 1) }
    end
    return next_position
  end)
  return after and skip_space(text, after) > #text and members or nil
end

--- Tells whether `text` is one JSON object and nothing else.
function json.is_object(text)
  return members_of(text) ~= nil
end

--- Returns the object `text` with the member `key` set to `value`, which is JSON text; an older member of that name is
-- gone. Returns nil where `text` is no JSON object. The key must need no escapes.
function json.with_member(text, key, value)
  local members = members_of(text)
  if not members then
    return nil
  end
  local quoted, parts = '"' .. key .. '"', {}
  for _, member in ipairs(members) do
    if member.key ~= quoted then
      parts[#parts + 1] = member.text
    end
  end
  parts[#parts + 1] = quoted .. ":" .. value
  return "{" .. table.concat(parts, ",") .. "}"
end

return json
