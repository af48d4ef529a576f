-- Looks whether each of the next pending jobs is where its hash says, and puts it there. A walk
-- goes over all of them, a part at each call, and begins anew at its end.
-- ARGV: most jobs. Answers with whether something is known to be lost still, and how many were put
-- right.
local at = redis.call('GET', P .. 'audit') or '0'
local places = redis.call('ZRANGEBYSCORE', P .. 'pending', '(' .. at, '+inf', 'LIMIT', 0, tonumber(ARGV[1]))
if at == '0' and redis.call('DEL', P .. 'torn') == 1 then
    -- What is lost during this walk is for the next one.
    redis.call('SET', P .. 'mending', '1')
end
local mended = 0
for _, place in ipairs(places) do
    local job = load(place)
    at = place
    if not job then
        redis.call('ZREM', P .. 'pending', place)
        mended = mended + 1
    elseif job.st == 'r' then
        local stream, turns, acts, tenant = turn_keys(job)
        local there = redis.call('ZSCORE', turns, tenant) and redis.call('ZSCORE', acts, job.a)
            and job.en and #redis.call('XRANGE', stream, job.en, job.en) == 1
        if not there then
            put_ready(job)
            mended = mended + 1
        end
    elseif job.st == 'd' then
        if not redis.call('ZSCORE', P .. 'delayed', place) then
            put_delayed(job)
            mended = mended + 1
        end
    elseif job.st == 'c' then
        job.w = job.w or ''
        if not redis.call('ZSCORE', P .. 'workers', job.w)
            or not redis.call('ZSCORE', P .. 'held:' .. job.w, place) then
            free(job)
            put_behind(job)
            advance(job)
            mended = mended + 1
        end
    elseif redis.call('ZRANGE', P .. 'lane:' .. job.lane, 0, 0)[1] == place then
        advance(job)
        mended = mended + 1
    end
end
if #places < tonumber(ARGV[1]) then
    at = '0'
    redis.call('DEL', P .. 'mending')
end
redis.call('SET', P .. 'audit', at)
settle()
return { redis.call('EXISTS', P .. 'torn', P .. 'mending') > 0 and 1 or 0, mended }
