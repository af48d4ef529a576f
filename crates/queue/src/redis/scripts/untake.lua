-- Gives back what a claim took whose answer was never read, and has it take nothing if it is yet
-- to come. ARGV: worker, token, seconds for which the token is remembered.
redis.call('SET', P .. 'void:' .. ARGV[2], '1', 'EX', ARGV[3])
local given, lanes = 0, {}
for _, place in ipairs(redis.call('ZRANGE', P .. 'held:' .. ARGV[1], 0, -1)) do
    local job = load(place)
    if job and job.st == 'c' and job.w == ARGV[1] and job.tok == ARGV[2] then
        free(job)
        if job.cx then
            remove(job, 'cancelled', false)
        else
            put_behind(job)
        end
        lanes[job.lane] = job
        given = given + 1
    end
end
for _, job in pairs(lanes) do
    advance(job)
end
settle()
return given
