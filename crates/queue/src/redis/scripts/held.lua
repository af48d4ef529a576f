-- Which of these claims the worker holds. ARGV: worker, then for each place and claim.
-- Answers with the numbers of those that it holds, counted from 0.
local held = {}
for at = 2, #ARGV, 2 do
    local job = load(ARGV[at])
    if job and job.st == 'c' and job.w == ARGV[1] and job.claim == ARGV[at + 1] then
        held[#held + 1] = (at - 2) / 2
    end
end
return held
