-- Ends claims, and lets the next of their lanes come. What was ended before by the same claim is
-- accepted again, and changes nothing.
-- ARGV: worker, whether finished ones are kept, for how long ids are remembered and how many of
-- them, then for each claim its place, number, id, ending, wait, attempts or '', history.
-- Answers with the numbers of those refused, counted from 0.
local WIDTH = 7
local worker, keep = ARGV[1], ARGV[2] == '1'
local refused, lanes, back = {}, {}, {}

local function ended_before(job, claim, id)
    if job and job.st ~= 'f' then
        return job.fin == claim and job.claim == claim
    end
    local score = redis.call('ZSCORE', P .. 'recent', id)
    return score and tonumber(score) % 4096 == tonumber(claim) % 4096
end

for at = 5, #ARGV, WIDTH do
    local place, claim, id, ending = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local job = load(place)
    if not job or job.st ~= 'c' or job.w ~= worker or job.claim ~= claim then
        if not ended_before(job, claim, id) then
            refused[#refused + 1] = (at - 5) / WIDTH
        end
    else
        lanes[job.lane] = job
        local attempts = ARGV[at + 5] ~= '' and ARGV[at + 5] or str(tonumber(job.att) + 1)
        if ending == 'done' or ending == 'dead' or job.cx then
            free(job)
            remove(job, ending, keep)
            if keep then
                set(job, 'att', attempts)
                if ARGV[at + 6] ~= '' then
                    set(job, 'hist', ARGV[at + 6])
                end
            end
        else
            if ending == 'again' then
                attempted(job, attempts)
                set(job, 'att', attempts, 'hist', ARGV[at + 6], 'due', str(now + tonumber(ARGV[at + 4])))
            end
            set(job, 'fin', claim)
            if not back[job.lane] or tonumber(place) < back[job.lane] then
                back[job.lane] = tonumber(place)
            end
        end
    end
end
-- What is left of a lane goes back from the first on that is not over.
for lane, from in pairs(back) do
    for _, place in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lane:' .. lane, str(from), '+inf', 'LIMIT', 0, 64)) do
        local job = load(place)
        if not job or job.st ~= 'c' then
            break
        end
        if job.w == worker then
            free(job)
            if job.cx then
                remove(job, 'cancelled', false)
            else
                put_behind(job)
            end
        end
    end
end
for _, job in pairs(lanes) do
    advance(job)
end
trim_recent(tonumber(ARGV[3]), tonumber(ARGV[4]), math.min(2 * #ARGV, 4000))
settle()
return refused
