--- One HTTP/2 connection over a Unix socket, with one stream at a time: slurmctld runs Lua under one mutex.
--
-- Every wait is one call into lua-socket with what is left of the deadline. lua-socket would loop inside by the wall
-- clock, and its select() cannot hold descriptors above 1023, which a busy slurmctld has.

local failure = require "overspill.failure"
local hpack = require "overspill.hpack"
local http2 = require "overspill.http2"

local FRAME, FLAG, SETTING = http2.FRAME, http2.FLAG, http2.SETTING

local MAX_RESPONSE_BYTES = 65536
local STREAM_WINDOW_BYTES = 2 * MAX_RESPONSE_BYTES -- never needs an update: a larger response is refused
local CONNECTION_WINDOW_BYTES = 2 ^ 30 -- never updated either: the connection is renewed once it is used up
local LAST_STREAM_ID = 2 ^ 30
local SEND_BYTES = 8192 -- what lua-socket hands to the kernel at a time

local GREETING = http2.PREFACE
  .. http2.settings {
    { SETTING.HEADER_TABLE_SIZE, 0 }, { SETTING.ENABLE_PUSH, 0 }, { SETTING.INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES },
  }
  .. http2.frame(FRAME.WINDOW_UPDATE, 0, 0, http2.uint32(CONNECTION_WINDOW_BYTES - http2.DEFAULT_WINDOW_BYTES))

local Connection = {}
Connection.__index = Connection

--- Connects to the Unix socket at `path`. `new_socket` makes an unconnected stream socket (lua-socket's interface).
function Connection.open(new_socket, path, deadline)
  local socket, reason = new_socket()
  if not socket then
    failure.raise("unavailable", "socket: " .. tostring(reason))
  end
  socket:settimeout(deadline:left_s())
  local connected
  connected, reason = socket:connect(path)
  if not connected then
    socket:close()
    if reason == "timeout" then
      failure.raise("deadline", "connecting took too long")
    end
    failure.raise("unavailable", "connect: " .. tostring(reason))
  end
  return setmetatable({
    socket = socket,
    input = "", -- received, not yet taken apart
    output = { GREETING }, -- to be sent before the next wait
    next_stream_id = 1,
    received_bytes = 0,
    send_window = http2.DEFAULT_WINDOW_BYTES,
    initial_window = http2.DEFAULT_WINDOW_BYTES,
    max_frame_bytes = http2.MAX_FRAME_BYTES,
    is_going_away = false,
  }, Connection)
end

function Connection:close()
  self.socket:close()
end

--- Tells whether another exchange may be begun.
function Connection:is_usable()
  return not self.is_going_away
    and self.next_stream_id < LAST_STREAM_ID
    and self.received_bytes < CONNECTION_WINDOW_BYTES / 2
end

local function broken(reason)
  if reason == "timeout" then
    failure.raise("deadline", "no answer in time")
  end
  failure.raise("unavailable", "connection: " .. tostring(reason))
end

function Connection:queue(frame)
  self.output[#self.output + 1] = frame
end

function Connection:flush(deadline)
  local bytes = table.concat(self.output)
  self.output = {}
  local position = 1
  while position <= #bytes do
    self.socket:settimeout(deadline:left_s())
    local sent, reason = self.socket:send(bytes, position, math.min(position + SEND_BYTES - 1, #bytes))
    if not sent then
      broken(reason)
    end
    position = sent + 1
  end
end

-- Appends to the input what has arrived already; does not wait.
function Connection:take_arrived()
  self.socket:settimeout(0)
  local whole, reason, part = self.socket:receive(MAX_RESPONSE_BYTES)
  local bytes = whole or part or ""
  self.input = self.input .. bytes
  self.received_bytes = self.received_bytes + #bytes
  if not whole and reason ~= "timeout" and bytes == "" then
    broken(reason)
  end
end

-- Waits for at least one byte; what had to be sent is sent before.
function Connection:wait_for_input(deadline)
  self:flush(deadline)
  self.socket:settimeout(deadline:left_s())
  local first, reason = self.socket:receive(1)
  if not first then
    broken(reason)
  end
  self.input = self.input .. first
  self.received_bytes = self.received_bytes + 1
  self:take_arrived()
end

local handlers = {}

handlers[FRAME.DATA] = function(self, stream, frame)
  if frame.stream_id ~= stream.id then
    return
  end
  local content = http2.content(frame)
  stream.data_bytes = stream.data_bytes + #content
  if stream.data_bytes > MAX_RESPONSE_BYTES then
    failure.raise("protocol", "the answer is too large")
  end
  stream.data[#stream.data + 1] = content
  stream.is_ended = http2.has_flag(frame.flags, FLAG.END_STREAM)
end

local function read_block(stream, block, is_last)
  stream.block = stream.block .. block
  if #stream.block > MAX_RESPONSE_BYTES then
    failure.raise("protocol", "the answer's headers are too large")
  elseif not is_last then
    return
  end
  for name, value in pairs(hpack.decode(stream.block)) do
    stream.fields[name] = value
  end
  stream.block = ""
  stream.is_ended = stream.ends_with_block
end

handlers[FRAME.HEADERS] = function(_, stream, frame)
  if frame.stream_id == stream.id then
    stream.ends_with_block = http2.has_flag(frame.flags, FLAG.END_STREAM)
    read_block(stream, http2.content(frame), http2.has_flag(frame.flags, FLAG.END_HEADERS))
  end
end

handlers[FRAME.CONTINUATION] = function(_, stream, frame)
  if frame.stream_id == stream.id then
    read_block(stream, frame.payload, http2.has_flag(frame.flags, FLAG.END_HEADERS))
  end
end

handlers[FRAME.RST_STREAM] = function(_, stream, frame)
  if frame.stream_id == stream.id then
    failure.raise("unavailable", "the stream was reset with error " .. http2.read_uint32(frame.payload, 1))
  end
end

handlers[FRAME.SETTINGS] = function(self, stream, frame)
  if http2.has_flag(frame.flags, FLAG.ACK) then
    return
  end
  local settings = http2.read_settings(frame.payload)
  local initial_window = settings[SETTING.INITIAL_WINDOW_SIZE] or self.initial_window
  stream.send_window = stream.send_window + initial_window - self.initial_window
  self.initial_window = initial_window
  self.max_frame_bytes = settings[SETTING.MAX_FRAME_SIZE] or self.max_frame_bytes
  self:queue(http2.frame(FRAME.SETTINGS, FLAG.ACK, 0, ""))
end

handlers[FRAME.PUSH_PROMISE] = function()
  failure.raise("protocol", "a push that was declined")
end

handlers[FRAME.PING] = function(self, _, frame)
  if not http2.has_flag(frame.flags, FLAG.ACK) then
    self:queue(http2.frame(FRAME.PING, FLAG.ACK, 0, frame.payload))
  end
end

-- A stream up to the last one named is still answered; a later one never will be.
handlers[FRAME.GOAWAY] = function(self, stream, frame)
  self.is_going_away = true
  if http2.read_uint32(frame.payload, 1) % 2147483648 < stream.id then
    failure.raise("unavailable", "the peer is going away")
  end
end

handlers[FRAME.WINDOW_UPDATE] = function(self, stream, frame)
  local increment = http2.read_uint32(frame.payload, 1) % 2147483648
  if frame.stream_id == 0 then
    self.send_window = self.send_window + increment
  elseif frame.stream_id == stream.id then
    stream.send_window = stream.send_window + increment
  end
end

-- Handles every whole frame of the input, up to the stream's end. Unknown types are ignored, as HTTP/2 asks.
function Connection:handle_input(stream)
  local position = 1
  while not stream.is_ended do
    local frame, after = http2.read_frame(self.input, position)
    if not frame then
      break
    end
    position = after
    local handle = handlers[frame.type]
    if handle then
      handle(self, stream, frame)
    end
  end
  self.input = self.input:sub(position)
end

-- Queues as much of the body as the windows allow; returns the position of the first byte that has to wait.
function Connection:queue_body(stream, body, position)
  while position <= #body do
    local room = math.min(self.send_window, stream.send_window, self.max_frame_bytes)
    if room <= 0 then
      break
    end
    local chunk = body:sub(position, position + room - 1)
    position = position + #chunk
    self.send_window = self.send_window - #chunk
    stream.send_window = stream.send_window - #chunk
    self:queue(http2.frame(FRAME.DATA, position > #body and FLAG.END_STREAM or 0, stream.id, chunk))
  end
  return position
end

--- Sends one request and waits for its answer, { data =, fields = }: the body, and the literal fields of headers and
-- trailers. Raises a failure; the connection must be closed then.
-- `header_block` is below MAX_FRAME_BYTES, `body` is not empty.
function Connection:exchange(header_block, body, deadline)
  local stream = {
    id = self.next_stream_id, send_window = self.initial_window,
    data = {}, data_bytes = 0, fields = {}, block = "", is_ended = false, ends_with_block = false,
  }
  self.next_stream_id = stream.id + 2
  self:take_arrived()
  self:handle_input(stream)
  self:queue(http2.frame(FRAME.HEADERS, FLAG.END_HEADERS, stream.id, header_block))
  local position = self:queue_body(stream, body, 1)
  while not stream.is_ended do
    self:wait_for_input(deadline)
    self:handle_input(stream)
    position = self:queue_body(stream, body, position)
  end
  if position > #body then
    self:flush(deadline)
  else
    self.is_going_away = true -- answered before it was asked in full: the stream is left half open
  end
  return { data = table.concat(stream.data), fields = stream.fields }
end

return Connection
