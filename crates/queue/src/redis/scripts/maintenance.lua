-- Promotes due jobs, trims what is kept, and finds expired workers.
-- ARGV: for how long dedup keys are kept and how many, for how long completed jobs are kept and how many,
-- batch size of each step.
-- Returns whether indexes are damaged, and the workers whose lease expired.
local steps = tonumber(ARGV[5])
promote(steps)
trim_recent_ids(tonumber(ARGV[1]), tonumber(ARGV[2]), steps)
local surplus = redis.call('ZCARD', P .. 'completed') - tonumber(ARGV[4])
local old = redis.call(
    'ZRANGEBYSCORE', P .. 'completed', '-inf', str(now - tonumber(ARGV[3])), 'LIMIT', 0, steps)
if #old == 0 and surplus > 0 then
    old = redis.call('ZRANGE', P .. 'completed', 0, math.min(surplus, steps) - 1)
end
for _, ref in ipairs(old) do
    local id = redis.call('HGET', P .. 'job:' .. ref, 'id')
    if id and redis.call('HGET', P .. 'completed_ids', id) == ref then
        redis.call('HDEL', P .. 'completed_ids', id)
    end
    redis.call('DEL', P .. 'job:' .. ref)
    redis.call('ZREM', P .. 'completed', ref)
end
local answer = { redis.call('EXISTS', P .. 'damaged', P .. 'repairing') > 0 and '1' or '0' }
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', str(now), 'LIMIT', 0, 16)) do
    answer[#answer + 1] = worker
end
flush_counters()
return answer
