"""What Redis does for sessions, each as one script: all of it happens, or nothing.

Keys, all of one session under one `{id}` hash tag so that they share a cluster's slot: `dreamr:{id}:session`
(hash: request, status, fence, owner, take-overs, leased until, outcome, origin, and the images' content
hashes in order), `dreamr:{id}:steps` (list) and `dreamr:{id}:images` (hash: content hash to bytes). They
expire together.

`dreamr:background` (sorted set: session id by the time to look at it, in ms) is in another slot, and so never
changes together with a session. It is a list of hints, which heals: who holds a session puts it there again
and again, and what is found to have ended is removed.
"""

# KEYS: session, steps, images. ARGV: fence, index, step, seconds to live.
APPEND = """
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then return 'no_session' end
if fence ~= ARGV[1] then return 'stale_fence' end
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'ended' end
local index, length = tonumber(ARGV[2]), redis.call('LLEN', KEYS[2])
if index < length and redis.call('LINDEX', KEYS[2], index) == ARGV[3] then return 'repeated' end
if index ~= length then return 'wrong_index' end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[1], 'takeovers')
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return 'done'
"""

# KEYS: session, steps, images. ARGV: fence, status, outcome, seconds to live. Nobody goes on with it: its
# images, which are most of it, go at once.
END = """
local found = redis.call('HMGET', KEYS[1], 'fence', 'status')
if found[1] ~= ARGV[1] or found[2] ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'outcome', ARGV[3])
redis.call('DEL', KEYS[3])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return 1
"""

# Milliseconds, by the server's clock: gateways' clocks differ.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: session, images. ARGV: request, images' hashes in order, lease in ms, seconds to live, owner, origin,
# then hash and content of each image. Its owner may not have heard of it the first time. The first fence is
# the time in microseconds: where a store has lost everything and a session is stored anew, it must be above
# all that the session ever had.
CREATE = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'status', 'fence', 'owner')
if found[1] == 'running' and found[3] == ARGV[5] then return tonumber(found[2]) end
if found[1] then return 0 end
local fence = time[1] * 1000000 + time[2]
redis.call('HSET', KEYS[1], 'request', ARGV[1], 'status', 'running', 'fence', fence, 'images', ARGV[2],
    'leased', now + ARGV[3], 'owner', ARGV[5], 'origin', ARGV[6])
redis.call('EXPIRE', KEYS[1], ARGV[4])
for at = 7, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[4])
return fence
"""
)

# KEYS: session, steps, images. ARGV: fence, lease in ms, seconds to live.
RENEW = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'fence', 'status')
if not found[1] then return 'no_session' end
if found[2] == 'cancelled' then return 'cancelled' end
if found[1] ~= ARGV[1] or found[2] ~= 'running' then return 'taken' end
redis.call('HSET', KEYS[1], 'leased', now + ARGV[2])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[3]) end
return 'ours'
"""
)

# KEYS: session. ARGV: lease in ms, owner. A new fence, only where a session runs that nobody holds, or the
# one that this owner was given before and has not heard of. Take-overs are counted until there is a step.
TAKE_OVER = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'status', 'leased', 'owner', 'fence')
if found[1] ~= 'running' then return 0 end
if tonumber(found[2]) > now then return found[3] == ARGV[2] and tonumber(found[4]) or 0 end
redis.call('HSET', KEYS[1], 'leased', now + ARGV[1], 'owner', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'takeovers', 1)
return redis.call('HINCRBY', KEYS[1], 'fence', 1)
"""
)

# KEYS: session, steps, images. ARGV: seconds to live.
CANCEL = """
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'cancelled')
redis.call('DEL', KEYS[3])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end
return 1
"""

# KEYS: session, steps, images. ARGV: index of the first step, whether images are wanted. Everything as of one
# moment, in one string: each part behind its length in four bytes, since one of the clients cannot read lists
# of strings.
LOAD = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'request', 'status', 'fence', 'leased', 'images', 'outcome',
    'takeovers', 'origin')
if not found[1] then return '' end
local steps = redis.call('LRANGE', KEYS[2], ARGV[1], -1)
local parts = {found[1], found[2], found[3], tonumber(found[4]) > now and '1' or '0', found[7] or '0',
    found[5], found[6] or '', found[8] or '', tostring(#steps)}
for _, step in ipairs(steps) do table.insert(parts, step) end
if ARGV[2] == '1' then
    for _, part in ipairs(redis.call('HGETALL', KEYS[3])) do table.insert(parts, part) end
end
for at, part in ipairs(parts) do parts[at] = struct.pack('>I4', #part) .. part end
return table.concat(parts)
"""
)

# KEYS: background. ARGV: session id, ms from now on, seconds to live.
REGISTER = (
    _NOW
    + """
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

# KEYS: background. ARGV: how many at most, ms until they are due again: who asks meanwhile gets others. Ids,
# with spaces between.
DUE = (
    _NOW
    + """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], id) end
return table.concat(due, ' ')
"""
)

# KEYS: session.
LOOK = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'status', 'leased')
if found[1] ~= 'running' then return 'ended' end
return tonumber(found[2]) > now and 'held' or 'orphan'
"""
)

# KEYS: background. ARGV: session ids.
FORGET = "return redis.call('ZREM', KEYS[1], unpack(ARGV))"

ALL = (APPEND, END, CREATE, RENEW, TAKE_OVER, CANCEL, LOAD, REGISTER, DUE, LOOK, FORGET)
