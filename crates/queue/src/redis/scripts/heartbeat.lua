-- Registers a worker or renews its lease. ARGV: worker, lease, name (registration) or ''.
-- Returns 0 if its lease has expired, else 1 and its cancelled claims.
local expires = redis.call('ZSCORE', P .. 'workers', ARGV[1])
if ARGV[3] == '' and (not expires or tonumber(expires) <= now) then
    return { '0' }
end
redis.call('ZADD', P .. 'workers', str(now + tonumber(ARGV[2])), ARGV[1])
if ARGV[3] ~= '' then
    redis.call('HSET', P .. 'worker_names', ARGV[1], ARGV[3])
end
local answer = { '1' }
for _, claim in ipairs(redis.call('SMEMBERS', P .. 'cancelled:' .. ARGV[1])) do
    answer[#answer + 1] = claim
end
return answer
