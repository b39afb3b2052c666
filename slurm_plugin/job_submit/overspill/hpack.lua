--- HPACK without its tables: what a client needs that announces SETTINGS_HEADER_TABLE_SIZE 0.
-- Source: RFC 7541.

local failure = require "overspill.failure"

local hpack = {}

-- Entries of the static table (RFC 7541, appendix A) that a gRPC request uses.
hpack.METHOD_POST = "\131" -- an indexed field: 0x80 + 3
hpack.SCHEME_HTTP = "\134" -- an indexed field: 0x80 + 6
local AUTHORITY, PATH = 1, 4 -- name indexes of literal fields

local function encode_integer(value, prefix_bits)
  local limit = 2 ^ prefix_bits - 1
  if value < limit then
    return string.char(value)
  end
  local bytes = { string.char(limit) }
  value = value - limit
  while value >= 128 do
    bytes[#bytes + 1] = string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  bytes[#bytes + 1] = string.char(value)
  return table.concat(bytes)
end

local function encode_string(text)
  return encode_integer(#text, 7) .. text
end

--- A literal field, never indexed by the peer.
function hpack.literal(name, value)
  return "\0" .. encode_string(name) .. encode_string(value)
end

function hpack.path(value)
  return encode_integer(PATH, 4) .. encode_string(value)
end

function hpack.authority(value)
  return encode_integer(AUTHORITY, 4) .. encode_string(value)
end

local function cut_short()
  failure.raise("protocol", "a header block is cut short")
end

-- Returns the integer whose prefix is the low `prefix_bits` bits at `position`, and the position after it.
local function decode_integer(block, position, prefix_bits)
  local first = block:byte(position) or cut_short()
  local limit = 2 ^ prefix_bits - 1
  local value = first % (limit + 1)
  if value < limit then
    return value, position + 1
  end
  for index = 0, 3 do
    local byte = block:byte(position + 1 + index) or cut_short()
    value = value + byte % 128 * 2 ^ (7 * index)
    if byte < 128 then
      return value, position + 2 + index
    end
  end
  failure.raise("protocol", "a header block holds too large a number")
end

-- Returns the string, or nil where it is Huffman-coded, and the position after it.
local function decode_string(block, position)
  local is_huffman = (block:byte(position) or cut_short()) >= 128
  local length
  length, position = decode_integer(block, position, 7)
  if position + length > #block + 1 then
    cut_short()
  end
  return not is_huffman and block:sub(position, position + length - 1) or nil, position + length
end

local function decode_literal(block, position, prefix_bits)
  local name_index, name, value
  name_index, position = decode_integer(block, position, prefix_bits)
  if name_index == 0 then
    name, position = decode_string(block, position)
  end
  value, position = decode_string(block, position)
  return name, value, position
end

--- Reads the fields of a header block that spell out both name and value, as a table by name.
-- All others are skipped: gRPC's own fields are not in the static table, and grpcio writes them without Huffman codes.
-- Raises the failure "protocol" for a block that is none.
function hpack.decode(block)
  local fields, position = {}, 1
  while position <= #block do
    local first = block:byte(position)
    local name, value, _
    if first >= 128 then -- an indexed field
      _, position = decode_integer(block, position, 7)
    elseif first >= 64 then -- a literal that the peer would index
      name, value, position = decode_literal(block, position, 6)
    elseif first >= 32 then -- a change of the table's size
      _, position = decode_integer(block, position, 5)
    else -- a literal that is not indexed
      name, value, position = decode_literal(block, position, 4)
    end
    if name and value then
      fields[name] = value
    end
  end
  return fields
end

return hpack
