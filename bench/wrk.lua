-- SPDX-License-Identifier: Apache-2.0
-- What wrk sends, and its findings as one line of JSON. Arguments after "--": KIND PATH
--   same     GET PATH on kept-alive connections
--   unique   GET PATH with a number that no request had before
--   close    GET PATH, a connection for each
--   put      PUT 1 MiB to PATH
local count, unique, first = 0, false, ""

function init(args)
   local kind, path = args[1], args[2]
   wrk.headers["User-Agent"] = "wrk/4.1"
   wrk.headers["Accept"] = "*/*"
   if kind == "close" then wrk.headers["Connection"] = "close" end
   if kind == "put" then
      wrk.method = "PUT"
      wrk.body = string.rep("0123456789abcdef", 65536)
   end
   wrk.path = path
   unique = kind == "unique"
   first = wrk.format()
   count = os.time() % 100000 * 10000000
end

function request()
   if not unique then return first end
   count = count + 1
   return wrk.format(nil, wrk.path .. count)
end

function done(summary, latency)
   local errors = summary.errors
   io.stdout:write(string.format(
      '{"requests":%d,"seconds":%.6f,"bytes":%d,"not_2xx":%d,"errors":%d,"p50":%d,"p99":%d,"p999":%d}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
