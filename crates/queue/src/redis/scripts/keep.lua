-- Sees to what nobody tells of. ARGV: for how long ids are remembered and how many of them, for
-- how long finished jobs are kept and how many of them, most of each to be seen to.
-- Answers with whether streams were torn, and with the workers that are not heard of any more.
local steps = tonumber(ARGV[5])
promote(steps)
trim_recent(tonumber(ARGV[1]), tonumber(ARGV[2]), steps)
local surplus = redis.call('ZCARD', P .. 'done') - tonumber(ARGV[4])
local old = redis.call(
    'ZRANGEBYSCORE', P .. 'done', '-inf', str(now - tonumber(ARGV[3])), 'LIMIT', 0, steps)
if #old == 0 and surplus > 0 then
    old = redis.call('ZRANGE', P .. 'done', 0, math.min(surplus, steps) - 1)
end
for _, place in ipairs(old) do
    local id = redis.call('HGET', P .. 'job:' .. place, 'id')
    if id and redis.call('HGET', P .. 'ended', id) == place then
        redis.call('HDEL', P .. 'ended', id)
    end
    redis.call('DEL', P .. 'job:' .. place)
    redis.call('ZREM', P .. 'done', place)
end
local answer = { redis.call('EXISTS', P .. 'torn', P .. 'mending') > 0 and '1' or '0' }
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', str(now), 'LIMIT', 0, 16)) do
    answer[#answer + 1] = worker
end
settle()
return answer
