-- One command of a process about levels of one org, which are the KEYS: what the process has used, what it holds, and what
-- calls want now. ARGV is the time in ms (0: ours), the process, the number of its command, and how long in ms what it says
-- holds; then of each level what is read below; then of each call how many levels it wants something of, and for each of
-- them which one and how much.
--
-- A level is a hash: debt, in 60,000ths, as of at, and what of it is forgiven in each ms; and for each process the number of its last command, until when that
-- holds, what the process holds, and what it has used and given back since it began. What is used is told as a sum, so a
-- command that comes twice or late counts once, and the next one makes up for one that was lost.
--
-- The reply is 0, or -1 for a command that came late and did nothing; of each level what is owed, what others hold, and
-- what was leased; of each call 0, or which of its wants was refused.

local part, fields, forget, askew = 60000, 11, 600000, 5000
local now, process, n, ttl = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Lua writes large numbers with an exponent.
local function int(x) return string.format('%.0f', x) end

local function statement(seen, till, held, used, back)
  return seen .. ' ' .. int(till) .. ' ' .. held .. ' ' .. used .. ' ' .. back
end

local all = {}
for i, key in ipairs(KEYS) do
  local at = 4 + (i - 1) * fields
  local b = {
    key = key, debt = 0, at = now, others = 0, extra = 0,
    limit = tonumber(ARGV[at + 1]),
    drain = tonumber(ARGV[at + 2]), -- forgiven in each ms
    held = tonumber(ARGV[at + 3]),
    used = tonumber(ARGV[at + 4]), told = tonumber(ARGV[at + 5]), -- and what of it was acknowledged
    back = tonumber(ARGV[at + 6]), toldback = tonumber(ARGV[at + 7]),
    floor = tonumber(ARGV[at + 8]), -- what is owed by the process's own reckoning, since
    acked = tonumber(ARGV[at + 9]), -- the last command that it had an answer to, which was sent
    ago = tonumber(ARGV[at + 10]), -- so long ago
    ahead = tonumber(ARGV[at + 11]), -- what it would like to lease
  }
  b.drained = b.drain
  all[i] = b
  local h = redis.call('HGETALL', key)
  for k = 1, #h, 2 do
    local name, value = h[k], h[k + 1]
    if name == 'debt' then
      b.debt = tonumber(value)
    elseif name == 'at' then
      b.at = tonumber(value)
    elseif name == 'drain' then
      b.drained = tonumber(value)
    else
      local seen, till, held, used, back = string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
      till = tonumber(till)
      if name == process then
        if tonumber(seen) >= n then return {-1} end
        b.known = tonumber(seen) >= b.acked and now - (till - ttl) < b.ago + askew
        -- Where we lost what was acknowledged, the floor has it.
        b.told, b.toldback = math.max(b.told, tonumber(used)), math.max(b.toldback, tonumber(back))
      elseif till + forget < now then
        redis.call('HDEL', key, name)
      elseif till > now then
        b.others = b.others + tonumber(held)
        if till > now + ttl then -- our clock was set back
          redis.call('HSET', key, name, statement(seen, now + ttl, held, used, back))
        end
      end
    end
  end
  if now > b.at then b.debt = math.max(0, b.debt - b.drained * (now - b.at)) end
  -- Where we have lost what we knew, or our clock has leapt ahead, the process knows better.
  if not b.known then b.debt = math.max(b.debt, b.floor) end
  b.debt = b.debt + math.max(0, b.used - b.told) * part
  b.debt = math.max(0, b.debt - math.max(0, b.back - b.toldback) * part)
end

local function free(b) return (b.limit - b.others - b.held) * part - b.debt end

local calls, full = {}, false
local at = 4 + #KEYS * fields
while ARGV[at + 1] do
  local count, refused = tonumber(ARGV[at + 1]), 0
  for k = 1, count do
    if free(all[tonumber(ARGV[at + 2 * k])]) < tonumber(ARGV[at + 2 * k + 1]) * part then
      refused, full = k, true
      break
    end
  end
  if refused == 0 then
    for k = 1, count do
      local b = all[tonumber(ARGV[at + 2 * k])]
      b.held = b.held + tonumber(ARGV[at + 2 * k + 1])
    end
  end
  calls[#calls + 1] = refused
  at = at + 1 + 2 * count
end

local reply = {0}
for _, b in ipairs(all) do
  local spare = free(b)
  if b.ahead > 0 and spare > 0 and not full then
    b.extra = math.min(b.ahead, math.floor(spare / part))
    b.held = b.held + b.extra
  end
  redis.call('HSET', b.key, 'debt', int(b.debt), 'at', int(now), 'drain', int(b.drain), process, statement(int(n), now + ttl, int(b.held), int(b.used), int(b.back)))
  local owed = 0
  if b.drain > 0 then owed = math.ceil(b.debt / b.drain) end
  redis.call('PEXPIRE', b.key, int(math.max(ttl, owed) + 1000))
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = b.debt, b.others, b.extra
end
for _, refused in ipairs(calls) do reply[#reply + 1] = refused end
return reply
