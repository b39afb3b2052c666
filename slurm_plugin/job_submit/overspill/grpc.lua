--- Unary gRPC calls over one kept connection.
-- Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

local Connection = require "overspill.connection"
local failure = require "overspill.failure"
local hpack = require "overspill.hpack"
local http2 = require "overspill.http2"

local OK, DEADLINE_EXCEEDED = "0", "4"
local PREFIX_BYTES = 5 -- one byte "is compressed", four bytes length

local Client = {}
Client.__index = Client

--- `new_socket` makes an unconnected Unix stream socket; `path` is where the server listens. Nothing is opened yet.
function Client.new(new_socket, path)
  return setmetatable({ new_socket = new_socket, path = path, connection = nil }, Client)
end

-- The fields that are the same in every call; a server may insist on the pseudo-fields being first.
local BEFORE_PATH = hpack.METHOD_POST .. hpack.SCHEME_HTTP .. hpack.authority("localhost")
local AFTER_PATH = hpack.literal("te", "trailers")
  .. hpack.literal("content-type", "application/grpc")
  .. hpack.literal("user-agent", "overspill-job-submit")

-- In whole milliseconds, rounded up: nearly all calls have the same headers then, to the byte, which a server that
-- remembers them need not take apart.
local function header_block(self, method, left_s)
  local timeout = string.format("%dm", math.max(1, math.ceil(left_s * 1e3)))
  if self.headers_for ~= method .. timeout then
    self.headers_for = method .. timeout
    self.headers = BEFORE_PATH .. hpack.path(method) .. AFTER_PATH .. hpack.literal("grpc-timeout", timeout)
  end
  return self.headers
end

-- Takes the one message out of a finished answer.
local function message_of(answer)
  local status = answer.fields["grpc-status"]
  if status == DEADLINE_EXCEEDED then
    failure.raise("deadline", "the sidecar gave up at the deadline")
  elseif not status then
    failure.raise("protocol", "the answer has no grpc-status")
  elseif status ~= OK then
    failure.raise("status", "grpc-status " .. status)
  end
  local data = answer.data
  if #data < PREFIX_BYTES or data:byte(1) ~= 0 or http2.read_uint32(data, 2) ~= #data - PREFIX_BYTES then
    failure.raise("protocol", "the answer is not one plain message")
  end
  return data:sub(PREFIX_BYTES + 1)
end

local function exchange(self, method, message, deadline)
  if self.connection and not self.connection:is_usable() then
    self:close()
  end
  self.connection = self.connection or Connection.open(self.new_socket, self.path, deadline)
  local body = "\0" .. http2.uint32(#message) .. message
  return self.connection:exchange(header_block(self, method, deadline:left_s()), body, deadline)
end

function Client:close()
  if self.connection then
    self.connection:close()
    self.connection = nil
  end
end

-- Returns the answer, or nil and a failure; after a failure the connection is closed.
local function try(self, method, message, deadline)
  local succeeded, result = pcall(exchange, self, method, message, deadline)
  if succeeded then
    return result
  end
  self:close()
  return nil, failure.from_error(result)
end

--- Calls `method` ("/package.Service/Method") with an encoded message, within `deadline`.
-- Returns the encoded reply, or nil and a failure. Never raises. A kept connection may have died since the last call,
-- so one that breaks is replaced and the call made again, once, within the same deadline: the method must allow that.
function Client:call(method, message, deadline)
  local was_kept = self.connection ~= nil
  local answer, problem = try(self, method, message, deadline)
  if not answer and was_kept and problem.kind == "unavailable" then
    answer, problem = try(self, method, message, deadline)
  end
  if not answer then
    return nil, problem
  end
  local succeeded, reply = pcall(message_of, answer)
  if succeeded then
    return reply
  end
  return nil, failure.from_error(reply)
end

return Client
