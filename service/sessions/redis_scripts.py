"""The Lua scripts of the Redis store. Each runs with the store's constants and COMMON in front of it.

A server whose memory is full refuses a script's first write if that needs memory, and no write after it. So a script is
never half done, and a script that frees memory always runs.

The names of keys and of hash fields are the format of the store, and older than the words here: `receipt` is an
idempotency record, `made` a change line ("<id> <position> <time>"), `about` the metadata, `swept` the tombstones.
"""

COMMON = """
local function has_record(owner, key, now)
  local expires_at = key and redis.call('HGET', 'carry:receipt:' .. owner .. '\\n' .. key, 'expires_at')
  return expires_at and tonumber(expires_at) > tonumber(now)
end
-- The bytes that a session is charged, or a record (its name is '\\n' .. key); nil if an older version wrote it.
local function charged(owner, name)
  return tonumber(redis.call('HGET', 'carry:sizes:' .. owner, name) or nil)
end
local function charge(owner, name, size)
  local growth = size - (charged(owner, name) or 0)
  if size == 0 then
    redis.call('HDEL', 'carry:sizes:' .. owner, name)
  elseif growth ~= 0 then
    redis.call('HSET', 'carry:sizes:' .. owner, name, size)
  end
  if growth ~= 0 and redis.call('HINCRBY', 'carry:bytes', owner, growth) == 0 then
    redis.call('HDEL', 'carry:bytes', owner)
  end
end
local function record_size(key, answer)
  return key and #answer + #key + row_bytes or 0
end
-- An earlier version is its change line, and below it its state.
local function earlier_size(history, version)
  local earlier = redis.call('HGET', history, version)
  return #earlier - #string.match(earlier, '^[^\\n]*') - 1 + row_bytes
end
local function add_record(owner, key, fingerprint, answer, expires_at, expires_at_ms)
  if key then
    local name = 'carry:receipt:' .. owner .. '\\n' .. key
    redis.call('HSET', name, 'fingerprint', fingerprint, 'answer', answer, 'expires_at', expires_at)
    redis.call('PEXPIREAT', name, expires_at_ms)
    redis.call('ZADD', 'carry:receipts', expires_at, key .. '\\n' .. owner)
    charge(owner, '\\n' .. key, record_size(key, answer))
  end
end
local function set_expiry(id, owner, expires_at, expires_at_ms)
  redis.call('ZADD', 'carry:live', expires_at, id .. '\\n' .. owner)
  redis.call('ZADD', 'carry:live:' .. owner, expires_at, id)
  redis.call('PEXPIREAT', 'carry:session:' .. id, expires_at_ms)
  redis.call('PEXPIREAT', 'carry:history:' .. id, expires_at_ms)
end
local function remove_live(id, owner)
  redis.call('ZREM', 'carry:live', id .. '\\n' .. owner)
  redis.call('ZREM', 'carry:live:' .. owner, id)
  redis.call('ZREM', 'carry:ids:' .. owner, id)
  redis.call('DEL', 'carry:history:' .. id)
  charge(owner, id, 0)
end
-- The name of a tombstone is the id and, unless an older version wrote it, the owner.
local function remove_tombstone(name)
  local id, owner = string.match(name, '^([^\\n]*)\\n?(.*)$')
  redis.call('ZREM', 'carry:swept', name)
  redis.call('ZREM', 'carry:swept:' .. owner, id)
  redis.call('DEL', 'carry:session:' .. id)
end
"""
COMMIT = """
local id, owner, version, change_line, metadata, state, expires_at, expires_at_ms, now = unpack(ARGV)
local max_sessions_of_owner, max_bytes_of_owner = tonumber(ARGV[10]), tonumber(ARGV[11])
local session, history = 'carry:session:' .. id, 'carry:history:' .. id
local stored = redis.call('HMGET', session, 'version', 'made', 'state')
local from, to = tonumber(stored[1] or -1), tonumber(version)
if from == to then
  return stored[3] and change_line == stored[2] and 1 or 0
elseif from > to then
  local earlier = redis.call('HGET', history, version)
  return earlier and change_line == string.match(earlier, '^[^\\n]*') and 1 or 0
elseif from ~= to - 1 or (to > 0 and not stored[3]) or has_record(ARGV[12], ARGV[13], now) then
  return 0
end
-- Expired sessions do not count until there are as many as the limit.
local function is_full(sessions, limit)
  local count = redis.call('ZCARD', sessions)
  return count >= 2 * limit or count >= limit and redis.call('ZCOUNT', sessions, '(' .. now, '+inf') >= limit
end
if to == 0 then
  if owner ~= '' and is_full('carry:live:' .. owner, max_sessions_of_owner) then
    return -2
  elseif is_full('carry:live', max_sessions) then
    return -1
  end
end
local size, dropped = #state + row_bytes, {}
if to > 0 then
  size = size + (charged(owner, id) or 0)
  if not charged(owner, id) then
    size = size + #stored[3] + row_bytes
    for _, old in ipairs(redis.call('HKEYS', history)) do
      size = size + earlier_size(history, old)
    end
  end
  if versions == 0 then
    size = size - #stored[3] - row_bytes
  end
  if redis.call('HLEN', history) >= math.max(versions, 1) then
    for _, old in ipairs(redis.call('HKEYS', history)) do
      if tonumber(old) < to - versions then
        table.insert(dropped, old)
        size = size - earlier_size(history, old)
      end
    end
  end
end
local growth = size - (charged(owner, id) or 0) + record_size(ARGV[13], ARGV[15])
  - (ARGV[13] and charged(ARGV[12], '\\n' .. ARGV[13]) or 0)
if owner ~= '' and growth > 0 and (redis.call('HGET', 'carry:bytes', owner) or 0) + growth > max_bytes_of_owner then
  return -3
end
redis.call('HSET', session, 'version', version, 'made', change_line, 'about', metadata, 'state', state,
  'owner', owner, 'expires_at', expires_at)
if to == 0 then
  redis.call('ZADD', 'carry:ids:' .. owner, 0, id)
elseif versions > 0 then
  redis.call('HSET', history, stored[1], stored[2] .. '\\n' .. stored[3])
end
for _, old in ipairs(dropped) do
  redis.call('HDEL', history, old)
end
charge(owner, id, size)
set_expiry(id, owner, expires_at, expires_at_ms)
add_record(unpack(ARGV, 12))
return 1
"""
DELETE = """
local id, owner, version, deletion_id, now = unpack(ARGV)
local stored = redis.call('HGET', 'carry:session:' .. id, 'version')
if not stored then
  return redis.call('GET', 'carry:deleted:' .. id) == deletion_id and 1 or 0
elseif stored ~= version or redis.call('HEXISTS', 'carry:session:' .. id, 'state') == 0
    or has_record(ARGV[6], ARGV[7], now) then
  return 0
end
redis.call('DEL', 'carry:session:' .. id)
remove_live(id, owner)
redis.call('SET', 'carry:deleted:' .. id, deletion_id, 'EX', 60)
add_record(unpack(ARGV, 6))
return 1
"""
TOUCH = """
local id, expires_at, expires_at_ms = unpack(ARGV)
local stored = redis.call('HMGET', 'carry:session:' .. id, 'expires_at', 'owner')
local is_live = redis.call('HEXISTS', 'carry:session:' .. id, 'state') == 1
if is_live and tonumber(stored[1]) < tonumber(expires_at) then
  redis.call('HSET', 'carry:session:' .. id, 'expires_at', expires_at)
  set_expiry(id, stored[2], expires_at, expires_at_ms)
end
"""
VERSIONS = """
local history = redis.call('HGETALL', 'carry:history:' .. ARGV[1])
for i = 2, #history, 2 do
  history[i] = string.match(history[i], '^[^\\n]*')
end
return history
"""
LIST = """
local owner, after, limit, now = ARGV[1], '(' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local sessions, ids = {}
repeat
  ids = redis.call('ZRANGEBYLEX', 'carry:ids:' .. owner, after, '+', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    local session = redis.call('HMGET', 'carry:session:' .. id, 'about', 'expires_at')
    if session[1] and tonumber(session[2]) > now and #sessions < limit then
      table.insert(sessions, session)
    end
    after = '(' .. id
  end
until #ids < limit or #sessions == limit
return sessions
"""
SWEEP = """
local now, tombstones_until, batch = unpack(ARGV)
local expired = redis.call('ZRANGEBYSCORE', 'carry:live', '-inf', now, 'WITHSCORES', 'LIMIT', 0, batch)
for i = 1, #expired, 2 do
  local id, owner = string.match(expired[i], '^([^\\n]*)\\n(.*)$')
  remove_live(id, owner)
  if redis.call('HDEL', 'carry:session:' .. id, 'state') == 1 then
    redis.call('ZADD', 'carry:swept', expired[i + 1], id .. '\\n' .. owner)
    redis.call('ZADD', 'carry:swept:' .. owner, expired[i + 1], id)
    if redis.call('ZCARD', 'carry:swept:' .. owner) > (owner == '' and max_sessions or max_sessions_per_owner) then
      remove_tombstone(redis.call('ZRANGE', 'carry:swept:' .. owner, 0, 0)[1] .. '\\n' .. owner)
    end
  end
end
local tombstones = redis.call('ZRANGEBYSCORE', 'carry:swept', '-inf', tombstones_until, 'LIMIT', 0, batch)
for _, name in ipairs(tombstones) do
  remove_tombstone(name)
end
local records = redis.call('ZRANGEBYSCORE', 'carry:receipts', '-inf', now, 'LIMIT', 0, batch)
for _, name in ipairs(records) do
  local key, owner = string.match(name, '^([^\\n]*)\\n(.*)$')
  redis.call('ZREM', 'carry:receipts', name)
  redis.call('DEL', 'carry:receipt:' .. owner .. '\\n' .. key)
  charge(owner, '\\n' .. key, 0)
end
return {#expired / 2, #tombstones, #records}
"""
