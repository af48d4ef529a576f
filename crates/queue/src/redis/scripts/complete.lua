-- Ends claims and unblocks their lanes. Results of claims that are not valid any more are stale, so that a
-- repeat changes nothing.
-- ARGV: worker, whether completed jobs are kept, for how long dedup keys are kept and how many, then for
-- each claim its ref, generation, outcome, delay, attempts or '', history.
-- Returns the indexes of stale results, counted from 0.
local WIDTH = 6
local worker, keep = ARGV[1], ARGV[2] == '1'
local stale, lanes, back = {}, {}, {}

for at = 5, #ARGV, WIDTH do
    local ref, claim, outcome = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local job = load(ref)
    if not job or job.st ~= 'c' or job.w ~= worker or job.claim ~= claim then
        stale[#stale + 1] = (at - 5) / WIDTH
    else
        lanes[job.lane] = job
        local attempts = ARGV[at + 4] ~= '' and ARGV[at + 4] or str(tonumber(job.att) + 1)
        if outcome == 'completed' or outcome == 'discarded' or job.cx then
            release_claim(job)
            local kept = keep and (outcome == 'completed' or outcome == 'discarded')
            finish_job(job, outcome, kept)
            if kept then
                set(job, 'att', attempts)
                if ARGV[at + 5] ~= '' then
                    set(job, 'hist', ARGV[at + 5])
                end
            end
        else
            if outcome == 'retry' then
                record_attempts(job, attempts)
                set(job, 'att', attempts, 'hist', ARGV[at + 5], 'due', str(now + tonumber(ARGV[at + 3])))
            end
            if not back[job.lane] or tonumber(ref) < back[job.lane] then
                back[job.lane] = tonumber(ref)
            end
        end
    end
end
-- The rest of a lane is blocked again from its first job on that has not ended.
for lane, from in pairs(back) do
    for _, ref in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lane:' .. lane, str(from), '+inf', 'LIMIT', 0, 64)) do
        local job = load(ref)
        if not job or job.st ~= 'c' then
            break
        end
        if job.w == worker then
            release_claim(job)
            if job.cx then
                finish_job(job, 'cancelled', false)
            else
                put_blocked(job)
            end
        end
    end
end
for _, job in pairs(lanes) do
    unblock_next(job)
end
trim_recent_ids(tonumber(ARGV[3]), tonumber(ARGV[4]), math.min(2 * #ARGV, 4000))
flush_counters()
return stale
