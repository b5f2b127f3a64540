-- Every script that rowbust's clients run in Redis. A line "--@ name" begins a script; its text goes up to the next such line, without
-- that line and without the line breaks at its end. Clients run a script by its SHA-1 (EVALSHA) and send its text (EVAL) when Redis
-- answers NOSCRIPT. Each script names the keys it touches in KEYS, all of one cluster slot. Times are the server's, in milliseconds.

--@ lease
-- KEYS: key. ARGV: token, milliseconds. {'hit', value}, {'busy', milliseconds left} or {'granted'}.
local held = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if held then
  if string.sub(held, 1, 16) == '\0rowbust:early:1' then return {'hit', string.sub(held, 49)} end
  if string.sub(held, 1, 15) ~= '\0rowbust:lease:' then return {'hit', held} end
  local deadline = tonumber(string.sub(held, 49, 64))
  if string.sub(held, 16, 16) == '1' and #held == 64 and deadline and deadline > now
    and string.sub(held, 17, 48) ~= ARGV[1] then
    return {'busy', deadline - now}
  end
end
local lease = '\0rowbust:lease:1' .. ARGV[1] .. string.format('%016.0f', now + ARGV[2])
redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
return {'granted'}

--@ early
-- KEYS: key. ARGV: token. A lease before a value, which is served on for as long as it has: 1: granted; 0: there is no value, or a lease
-- is there already.
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 9) == '\0rowbust:' and held ~= '\0rowbust:null:1' then return 0 end
redis.call('SET', KEYS[1], '\0rowbust:early:1' .. ARGV[1] .. held, 'KEEPTTL')
return 1

--@ fill
-- KEYS: key. ARGV: token, value, milliseconds. 1: filled; 0: refused, for the key doesn't hold the lease with this token.
local head = redis.call('GETRANGE', KEYS[1], 0, 47)
if head ~= '\0rowbust:lease:1' .. ARGV[1] and head ~= '\0rowbust:early:1' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1

--@ release
-- KEYS: key. ARGV: what the key's value begins with, if it is still the caller's. 1: removed, or, of a lease before a value, only the lease.
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
if string.sub(ARGV[1], 1, 16) == '\0rowbust:early:1' then
  redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 48, -1), 'KEEPTTL')
else
  redis.call('DEL', KEYS[1])
end
return 1

--@ lock
-- KEYS: lock. ARGV: 'read' or 'write', token, milliseconds to hold, milliseconds that the lock's memory is kept.
-- {1, fence} or {0, milliseconds until it is worth another try}. A hash: fence, writer and until, want (a writer waits, until when), and
-- "r:" and its token for each reader (until when).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lock, left = {}, 0
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do lock[flat[i]] = flat[i + 1] end
if lock.writer and lock.writer ~= ARGV[2] then left = (tonumber(lock['until']) or 0) - now end
if ARGV[1] == 'read' and left <= 0 and lock.want then left = (tonumber(lock.want) or 0) - now end
for field, value in pairs(lock) do
  if string.sub(field, 1, 2) == 'r:' then
    local rest = (tonumber(value) or 0) - now
    if rest <= 0 then
      redis.call('HDEL', KEYS[1], field)
    elseif ARGV[1] == 'write' and field ~= 'r:' .. ARGV[2] then
      left = math.max(left, rest)
    end
  end
end
local fence = tonumber(lock.fence)
if left > 0 then
  if ARGV[1] == 'write' then
    redis.call('HSET', KEYS[1], 'want', string.format('%.0f', now + 1000))
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
  end
  return {0, left}
end
local micros = time[1] * 1000000 + time[2]
local held = string.format('%.0f', now + ARGV[3])
if ARGV[1] == 'write' then
  -- Not below the clock: a lock whose memory was lost must not count from a number that a reader still holds.
  if lock.writer ~= ARGV[2] or not fence then fence = math.max((fence or 0) + 1, micros) end
  redis.call('HSET', KEYS[1], 'writer', ARGV[2], 'until', held)
  redis.call('HDEL', KEYS[1], 'want')
else
  fence = fence or micros
  redis.call('HSET', KEYS[1], 'r:' .. ARGV[2], held)
end
fence = string.format('%.0f', fence)
redis.call('HSET', KEYS[1], 'fence', fence)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1, fence}

--@ renew
-- KEYS: lock. ARGV: token, milliseconds, milliseconds that the lock's memory is kept. 1: held on; 0: it was lost.
local time = redis.call('TIME')
local held = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
if redis.call('HGET', KEYS[1], 'writer') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'until', held)
elseif redis.call('HEXISTS', KEYS[1], 'r:' .. ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'r:' .. ARGV[1], held)
else
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1

--@ unlock
-- KEYS: lock. ARGV: token. 1: it was held. The fence stays.
local had = redis.call('HDEL', KEYS[1], 'r:' .. ARGV[1])
if redis.call('HGET', KEYS[1], 'writer') == ARGV[1] then
  had = redis.call('HDEL', KEYS[1], 'writer', 'until')
end
return math.min(had, 1)

--@ fill_fenced
-- KEYS: key, lock. ARGV: fence, value, milliseconds. 1: filled; 0: refused, for a writer took the lock or removed the key since, or
-- the lock's memory is gone.
if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1

--@ remove_fenced
-- KEYS: key, lock. ARGV: milliseconds that the lock's memory is kept. Removes the key; who took the lock before may no longer fill. 1.
local time = redis.call('TIME')
local fence = math.max((tonumber(redis.call('HGET', KEYS[2], 'fence')) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[2], 'fence', string.format('%.0f', fence))
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
return 1

--@ owe
-- KEYS: sorted set. ARGV: milliseconds until due, then members. The number of members.
local time = redis.call('TIME')
local due = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], due, ARGV[i]) end
return #ARGV - 1

--@ take
-- KEYS: sorted set. ARGV: milliseconds until another may take them, at most how many. What is due, each with the score by which it is
-- settled; then the milliseconds until the next is due, or -1.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- With half a millisecond: no debt that is owed anew meanwhile has the score of this claim.
local again = string.format('%.1f', now + ARGV[1] + 0.5)
local taken = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', KEYS[1], again, member)
  taken[#taken + 1] = member
  taken[#taken + 1] = again
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
taken[#taken + 1] = first[2] and string.format('%.0f', math.max(first[2] - now, 0)) or '-1'
return taken

--@ settle
-- KEYS: sorted set. ARGV: member, score. 1: no longer owed; 0: somebody took it anew.
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
