--- How a call to the router can fail. Raised inside the client, caught where the call was made.
--
-- kind          what happened                                        what it cost
-- ------------- ---------------------------------------------------- ------------------------------
-- deadline      no answer in time                                    the whole deadline
-- unavailable   nobody listens, or the connection broke              about 0.1 ms
--               (or lua-socket is missing)
-- protocol      the peer does not speak HTTP/2 or gRPC as it should  whatever came before
-- status        the call ended with a gRPC status other than OK      one round trip
-- internal      a defect of ours, or a job that cannot be described  nothing

local failure = {}

--- Raises a failure; `detail` is one short phrase for slurmctld's log.
function failure.raise(kind, detail)
  error({ kind = kind, detail = detail }, 0)
end

--- Turns what pcall caught into a failure: a Lua error that nobody raised on purpose is our defect.
function failure.from_error(caught)
  if type(caught) == "table" and caught.kind then
    return caught
  end
  return { kind = "internal", detail = tostring(caught) }
end

return failure
