-- Releases the jobs of a claim whose reply was lost, and voids the claim if it is yet to arrive.
-- ARGV: worker, token, lifetime of the token in seconds. Returns the number of jobs.
redis.call('SET', P .. 'void_claims:' .. ARGV[2], '1', 'EX', ARGV[3])
local returned, lanes = 0, {}
for _, ref in ipairs(redis.call('ZRANGE', P .. 'claims:' .. ARGV[1], 0, -1)) do
    local job = load(ref)
    if job and job.st == 'c' and job.w == ARGV[1] and job.tok == ARGV[2] then
        release_claim(job)
        if job.cx then
            finish_job(job, 'cancelled', false)
        else
            put_blocked(job)
        end
        lanes[job.lane] = job
        returned = returned + 1
    end
end
for _, job in pairs(lanes) do
    unblock_next(job)
end
flush_counters()
return returned
