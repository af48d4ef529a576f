-- Puts the next pending jobs into the indexes that their hashes name. A walk covers all jobs, a part in each
-- call, and starts over at its end.
-- ARGV: max jobs. Returns whether indexes are known to be damaged still, and how many jobs were repaired.
local at = redis.call('GET', P .. 'repair_cursor') or '0'
local refs = redis.call('ZRANGEBYSCORE', P .. 'pending', '(' .. at, '+inf', 'LIMIT', 0, tonumber(ARGV[1]))
if at == '0' and redis.call('DEL', P .. 'damaged') == 1 then
    -- Damage during this walk is for the next one.
    redis.call('SET', P .. 'repairing', '1')
end
local repaired = 0
for _, ref in ipairs(refs) do
    local job = load(ref)
    at = ref
    if not job then
        redis.call('ZREM', P .. 'pending', ref)
        repaired = repaired + 1
    elseif job.st == 'r' then
        local stream, turns, acts, tenant = rotation_keys(job)
        local there = redis.call('ZSCORE', turns, tenant) and redis.call('ZSCORE', acts, job.a)
            and job.en and #redis.call('XRANGE', stream, job.en, job.en) == 1
        if not there then
            put_ready(job)
            repaired = repaired + 1
        end
    elseif job.st == 'd' then
        if not redis.call('ZSCORE', P .. 'delayed', ref) then
            put_delayed(job)
            repaired = repaired + 1
        end
    elseif job.st == 'c' then
        job.w = job.w or ''
        if not redis.call('ZSCORE', P .. 'workers', job.w)
            or not redis.call('ZSCORE', P .. 'claims:' .. job.w, ref) then
            release_claim(job)
            put_blocked(job)
            unblock_next(job)
            repaired = repaired + 1
        end
    elseif redis.call('ZRANGE', P .. 'lane:' .. job.lane, 0, 0)[1] == ref then
        unblock_next(job)
        repaired = repaired + 1
    end
end
if #refs < tonumber(ARGV[1]) then
    at = '0'
    redis.call('DEL', P .. 'repairing')
end
redis.call('SET', P .. 'repair_cursor', at)
flush_counters()
return { redis.call('EXISTS', P .. 'damaged', P .. 'repairing') > 0 and 1 or 0, repaired }
