-- Sends each request of a file once, and says what came of it; see load.py.
-- wrk ... -s wrk.lua URL -- REQUESTS LENGTHS

local ffi = require('ffi')
ffi.cdef('int gettimeofday(long time[2], void *zone);')

local requests = {}
-- wrk asks for one request more than it sends, to look at it.
local sent, answered = -1, 0
local started
local thread

local function now()
  local time = ffi.new('long[2]')
  ffi.C.gettimeofday(time, nil)
  return tonumber(time[0]) + tonumber(time[1]) / 1e6
end

function setup(created)
  thread = created
end

function init(arguments)
  local content = io.open(arguments[1], 'rb')
  for length in io.lines(arguments[2]) do
    requests[#requests + 1] = content:read(tonumber(length))
  end
  content:close()
  refused, seconds = 0, 0
end

function request()
  sent = sent + 1
  if sent == 1 then
    started = now()
  end
  -- Once all are sent, connections that are free ask for what is no upload.
  return requests[math.max(sent, 1)]
    or 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'
end

function response(status, headers, body)
  if not body:match('^%d%d%d$') then
    return
  end
  answered = answered + 1
  if body ~= '100' then
    refused = refused + 1
  end
  if answered == #requests then
    seconds = now() - started
    wrk.thread:stop()
    -- wrk itself goes on for the time it was given, or until it is interrupted.
    print('all are answered')
    io.stdout:flush()
  end
end

function done(summary, latency)
  print(string.format('{"seconds": %f, "median": %f, "p99": %f, "refused": %d}',
    thread:get('seconds'), latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, thread:get('refused')))
end
