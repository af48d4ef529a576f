-- Returns log id, event id, attempts and history of the first job of each lane, or nothing.
-- ARGV: for each lane hash and observer:action.
local answer = {}
for at = 1, #ARGV, 2 do
    local first = redis.call('ZRANGE', P .. 'lane:' .. ARGV[at] .. ':' .. ARGV[at + 1], 0, 0)[1]
    local job = first and redis.call('HMGET', P .. 'job:' .. first, 'log', 'ev', 'att', 'hist')
    answer[#answer + 1] = job and job[1] and job or {}
end
return answer
