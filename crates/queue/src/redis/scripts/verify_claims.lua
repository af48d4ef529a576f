-- Returns the indexes of the valid ones of these claims, counted from 0.
-- ARGV: worker, then for each claim ref and generation.
local valid = {}
for at = 2, #ARGV, 2 do
    local job = load(ARGV[at])
    if job and job.st == 'c' and job.w == ARGV[1] and job.claim == ARGV[at + 1] then
        valid[#valid + 1] = (at - 2) / 2
    end
end
return valid
