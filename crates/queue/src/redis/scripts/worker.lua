-- A worker's registration or sign of life. ARGV: worker, lease, name (registration) or ''.
-- Answers with 0 where it was away for too long, else with 1 and the claims to be cut off.
local expires = redis.call('ZSCORE', P .. 'workers', ARGV[1])
if ARGV[3] == '' and (not expires or tonumber(expires) <= now) then
    return { '0' }
end
redis.call('ZADD', P .. 'workers', str(now + tonumber(ARGV[2])), ARGV[1])
if ARGV[3] ~= '' then
    redis.call('HSET', P .. 'people', ARGV[1], ARGV[3])
end
local answer = { '1' }
for _, claim in ipairs(redis.call('SMEMBERS', P .. 'cut:' .. ARGV[1])) do
    answer[#answer + 1] = claim
end
return answer
