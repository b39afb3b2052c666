--- HTTP/2 frames and settings as bytes. Source: RFC 9113, sections 4 and 6.

local failure = require "overspill.failure"

local http2 = {}

http2.PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
http2.HEADER_BYTES = 9
http2.MAX_FRAME_BYTES = 16384 -- the default of SETTINGS_MAX_FRAME_SIZE, which we do not raise
http2.DEFAULT_WINDOW_BYTES = 65535

http2.FRAME = {
  DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PUSH_PROMISE = 5, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8,
  CONTINUATION = 9,
}
http2.FLAG = { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, PRIORITY = 32 }
http2.SETTING = { HEADER_TABLE_SIZE = 1, ENABLE_PUSH = 2, INITIAL_WINDOW_SIZE = 4, MAX_FRAME_SIZE = 5 }

function http2.uint32(value)
  return string.char(
    math.floor(value / 16777216) % 256, math.floor(value / 65536) % 256, math.floor(value / 256) % 256, value % 256)
end

--- Reads four bytes; raises the failure "protocol" where they are not there.
function http2.read_uint32(bytes, position)
  local a, b, c, d = bytes:byte(position, position + 3)
  if not d then
    failure.raise("protocol", "a frame is cut short")
  end
  return ((a * 256 + b) * 256 + c) * 256 + d
end

--- Tells whether `flags` holds `flag`, one of http2.FLAG.
function http2.has_flag(flags, flag)
  return flags % (2 * flag) >= flag
end

function http2.frame(frame_type, flags, stream_id, payload)
  return http2.uint32(#payload):sub(2) .. string.char(frame_type, flags) .. http2.uint32(stream_id) .. payload
end

--- Takes the frame that begins at `position`. Returns nil while it is incomplete, else the frame
-- { type =, flags =, stream_id =, payload = } and the position after it.
-- Raises the failure "protocol" for a frame above MAX_FRAME_BYTES: what follows could not be trusted either.
function http2.read_frame(bytes, position)
  if #bytes - position + 1 < http2.HEADER_BYTES then
    return nil
  end
  local high, middle, low, frame_type, flags = bytes:byte(position, position + 4)
  local length = (high * 256 + middle) * 256 + low
  if length > http2.MAX_FRAME_BYTES then
    failure.raise("protocol", "a frame is too large")
  end
  local payload_at = position + http2.HEADER_BYTES
  if #bytes < payload_at + length - 1 then
    return nil
  end
  return {
    type = frame_type,
    flags = flags,
    stream_id = http2.read_uint32(bytes, position + 5) % 2147483648,
    payload = bytes:sub(payload_at, payload_at + length - 1),
  }, payload_at + length
end

--- The payload of a DATA or HEADERS frame without padding and priority.
function http2.content(frame)
  local first, last = 1, #frame.payload
  if http2.has_flag(frame.flags, http2.FLAG.PADDED) then
    last = last - (frame.payload:byte(1) or 0)
    first = 2
  end
  if frame.type == http2.FRAME.HEADERS and http2.has_flag(frame.flags, http2.FLAG.PRIORITY) then
    first = first + 5
  end
  if last < first - 1 then
    failure.raise("protocol", "a frame is all padding")
  end
  return frame.payload:sub(first, last)
end

--- Encodes a list of { setting, value }.
function http2.settings(list)
  local parts = {}
  for _, setting in ipairs(list) do
    parts[#parts + 1] = string.char(0, setting[1]) .. http2.uint32(setting[2])
  end
  return http2.frame(http2.FRAME.SETTINGS, 0, 0, table.concat(parts))
end

--- Decodes the payload of a SETTINGS frame into a table by setting.
function http2.read_settings(payload)
  local settings = {}
  for position = 1, #payload, 6 do
    local high, low = payload:byte(position, position + 1)
    settings[high * 256 + (low or 0)] = http2.read_uint32(payload, position + 2)
  end
  return settings
end

return http2
