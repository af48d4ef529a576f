-- Ends claims, and lets the next of their lanes come. What is not held any more is refused, so that
-- a repeat changes nothing.
-- ARGV: worker, whether finished ones are kept, for how long ids are remembered and how many of
-- them, then for each claim its place, number, ending, wait, attempts or '', history.
-- Answers with the numbers of those refused, counted from 0.
local WIDTH = 6
local worker, keep = ARGV[1], ARGV[2] == '1'
local refused, lanes, back = {}, {}, {}

for at = 5, #ARGV, WIDTH do
    local place, claim, ending = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local job = load(place)
    if not job or job.st ~= 'c' or job.w ~= worker or job.claim ~= claim then
        refused[#refused + 1] = (at - 5) / WIDTH
    else
        lanes[job.lane] = job
        local attempts = ARGV[at + 4] ~= '' and ARGV[at + 4] or str(tonumber(job.att) + 1)
        if ending == 'done' or ending == 'dead' or job.cx then
            free(job)
            local kept = keep and (ending == 'done' or ending == 'dead')
            remove(job, ending, kept)
            if kept then
                set(job, 'att', attempts)
                if ARGV[at + 5] ~= '' then
                    set(job, 'hist', ARGV[at + 5])
                end
            end
        else
            if ending == 'again' then
                attempted(job, attempts)
                set(job, 'att', attempts, 'hist', ARGV[at + 5], 'due', str(now + tonumber(ARGV[at + 3])))
            end
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
