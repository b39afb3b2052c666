--- The part of protobuf's wire format that router.proto needs: varints, booleans and strings, single or repeated.
--
-- A schema is made once of a list of fields
-- { number =, name =, kind = "uint" | "bool" | "string", is_repeated = true | nil }.
-- As proto3 has it, a field at its default is not written, and unknown fields are skipped.
-- Source: https://protobuf.dev/programming-guides/encoding/

local failure = require "overspill.failure"

local protobuf = {}

local VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
local MAX_EXACT = 2 ^ 53 -- beyond, a Lua 5.1 number is not exact

-- The byte sequences that are UTF-8 beyond ASCII. Source: The Unicode Standard, table 3-7.
local UTF8_SEQUENCES = {
  "[\194-\223][\128-\191]",
  "\224[\160-\191][\128-\191]",
  "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]",
  "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]",
  "\244[\128-\143][\128-\191][\128-\191]",
}
local BEYOND_ASCII = "[\128-\255]"

--- Returns `text` if it is UTF-8, else with a "?" for each byte beyond ASCII. A peer refuses a whole message for one
-- such byte, so without this a user could trip everybody's breaker with a job name. Takes as long as eight searches.
function protobuf.to_utf8(text)
  local rest = text
  for _, sequence in ipairs(UTF8_SEQUENCES) do
    if not rest:find(BEYOND_ASCII) then
      return text
    end
    rest = rest:gsub(sequence, " ")
  end
  return rest:find(BEYOND_ASCII) and (text:gsub(BEYOND_ASCII, "?")) or text
end

local function encode_varint(value)
  if value < 0 or value > MAX_EXACT or value % 1 ~= 0 then
    failure.raise("internal", "not an unsigned integer: " .. tostring(value))
  end
  local bytes = ""
  while value >= 128 do
    bytes = bytes .. string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  return bytes .. string.char(value)
end

local CODECS = {
  uint = { wire_type = VARINT, default = 0, encode = encode_varint },
  bool = { wire_type = VARINT, default = false, encode = function(value) return encode_varint(value and 1 or 0) end },
  string = {
    wire_type = LENGTH_DELIMITED,
    default = "",
    encode = function(value)
      local text = protobuf.to_utf8(value)
      return encode_varint(#text) .. text
    end,
  },
}

--- Makes a schema of a list of fields: works out once what every message needs.
function protobuf.schema(fields)
  local schema = { fields = fields, by_number = {} }
  for _, field in ipairs(fields) do
    field.codec = CODECS[field.kind]
    field.key = encode_varint(field.number * 8 + field.codec.wire_type)
    schema.by_number[field.number] = field
  end
  return schema
end

--- Encodes `message`, a table by field name; nil is the field's default. Numbers must be whole and below 2^53.
function protobuf.encode(schema, message)
  local parts = {}
  for _, field in ipairs(schema.fields) do
    local value = message[field.name]
    if field.is_repeated then
      for _, item in ipairs(value or {}) do
        parts[#parts + 1] = field.key .. field.codec.encode(item)
      end
    elseif value ~= nil and value ~= field.codec.default then
      parts[#parts + 1] = field.key .. field.codec.encode(value)
    end
  end
  return table.concat(parts)
end

-- Returns the value and the position after it. Beyond 2^53 the value is near, not exact.
local function decode_varint(bytes, position)
  local value = 0
  for index = 0, 9 do
    local byte = bytes:byte(position + index)
    if not byte then
      break
    end
    value = value + byte % 128 * 2 ^ (7 * index)
    if byte < 128 then
      return value, position + index + 1
    end
  end
  failure.raise("protocol", "broken varint in the answer")
end

-- Returns the raw value (nil where the type is of no use to us) and the position after it.
local function decode_value(bytes, position, wire_type)
  if wire_type == VARINT then
    return decode_varint(bytes, position)
  end
  local length
  if wire_type == LENGTH_DELIMITED then
    length, position = decode_varint(bytes, position)
  elseif wire_type == FIXED64 then
    length = 8
  elseif wire_type == FIXED32 then
    length = 4
  else
    failure.raise("protocol", "unknown wire type in the answer")
  end
  if position + length > #bytes + 1 then
    failure.raise("protocol", "the answer is cut short")
  end
  return wire_type == LENGTH_DELIMITED and bytes:sub(position, position + length - 1) or nil, position + length
end

--- Decodes `bytes` into a table by field name in which every field of the schema has a value.
-- Raises the failure "protocol" for bytes that are no protobuf message. Repeated fields are not decoded.
function protobuf.decode(schema, bytes)
  local message = {}
  for _, field in ipairs(schema.fields) do
    message[field.name] = field.codec.default
  end
  local position = 1
  while position <= #bytes do
    local key, value
    key, position = decode_varint(bytes, position)
    local wire_type = key % 8
    value, position = decode_value(bytes, position, wire_type)
    local field = schema.by_number[(key - wire_type) / 8]
    if field and field.codec.wire_type == wire_type then
      if field.kind == "bool" then
        value = value ~= 0
      end
      message[field.name] = value
    end
  end
  return message
end

return protobuf
