-- Returns the counters of every observer: its name, pending, due, running, blocked, those by attempts, and
-- the age in microseconds of the oldest job.
promote(1000)
flush_counters()
local reply = {}
for _, observer in ipairs(redis.call('SMEMBERS', P .. 'observers')) do
    local of = redis.call('HMGET', P .. 'stats:' .. observer, 'pending', 'r', 'c', 'b', 'a0', 'a1', 'a2', 'a3', 'a4')
    local row = { observer }
    for i = 1, #of do
        row[i + 1] = of[i] or '0'
    end
    local oldest = redis.call('ZRANGE', P .. 'observer:' .. observer, 0, 0)[1]
    local at = oldest and redis.call('HGET', P .. 'job:' .. oldest, 'at')
    row[#row + 1] = at and str(math.max(now - tonumber(at), 0)) or '0'
    reply[#reply + 1] = row
end
return reply
