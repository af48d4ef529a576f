-- Counters of every observer. Answers for each with its name, pending, due, running, behind, those
-- by attempts, and the microseconds since the oldest was enqueued.
promote(1000)
settle()
local answer = {}
for _, observer in ipairs(redis.call('SMEMBERS', P .. 'observers')) do
    local of = redis.call('HMGET', P .. 'figures:' .. observer, 'pending', 'r', 'c', 'b', 'a0', 'a1', 'a2', 'a3', 'a4')
    local row = { observer }
    for i = 1, #of do
        row[i + 1] = of[i] or '0'
    end
    local oldest = redis.call('ZRANGE', P .. 'by:' .. observer, 0, 0)[1]
    local at = oldest and redis.call('HGET', P .. 'job:' .. oldest, 'at')
    row[#row + 1] = at and str(math.max(now - tonumber(at), 0)) or '0'
    answer[#answer + 1] = row
end
return answer
