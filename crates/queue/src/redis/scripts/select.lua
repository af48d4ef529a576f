-- Goes over the jobs of a selection, a part at each call.
-- ARGV: what to do (list, retry, cancel, show), where to begin after, most jobs to look at, most to
-- show, observer or '', action or '', state or '', then ids, if these are meant.
-- Answers with where to go on after ('' for nowhere), how many were meant, and rows of fields.
local what, after, look, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local observer, action, state = ARGV[5], ARGV[6], ARGV[7]
local places, upto = {}, ''
if #ARGV > 7 then
    for at = 8, #ARGV do
        local place = redis.call('HGET', P .. 'names', ARGV[at])
            or ((what == 'list' or what == 'show') and redis.call('HGET', P .. 'ended', ARGV[at]))
        if place then
            places[#places + 1] = place
        end
    end
elseif state == 'f' then
    local from = after == '' and 0 or tonumber(after)
    places = redis.call('ZRANGE', P .. 'done', from, from + look - 1)
    upto = #places == look and str(from + look) or ''
else
    local index = observer == '' and 'pending' or 'by:' .. observer
    places = redis.call('ZRANGEBYSCORE', P .. index, after == '' and '-inf' or '(' .. after, '+inf', 'LIMIT', 0, look)
    upto = #places == look and places[#places] or ''
end

local meant, rows = 0, {}

local function show(job)
    local fields = redis.call('HMGET', P .. 'job:' .. job.place, 'ev', 'ent', 'key', 'hist', 'event', 'end')
    local name = job.w and redis.call('HGET', P .. 'people', job.w) or job.w or false
    rows[#rows + 1] = {
        job.place, job.id, job.st, job.obs, job.act, fields[1], fields[2], fields[3], job.ten or false, job.pri, job.att,
        job.at, fields[6] or str(job.due), name, fields[4], what == 'show' and fields[5] or false,
    }
end

local function cancel(job)
    if job.st == 'c' then
        if job.cx then
            return false
        end
        set(job, 'cx', '1')
        redis.call('SADD', P .. 'cut:' .. job.w, job.place .. ':' .. job.claim)
    else
        unplace(job)
        remove(job, 'cancelled', false)
        advance(job)
    end
    return true
end

local function retry(job)
    if job.st ~= 'd' or job.due <= now then
        return false
    end
    unplace(job)
    job.due = now
    set(job, 'due', str(now))
    put_ready(job)
    return true
end

for _, place in ipairs(places) do
    local job = load(place)
    local state_of = job and (job.st == 'd' and 'r' or job.st)
    if job and (observer == '' or job.obs == observer) and (action == '' or job.act == action)
        and (state == '' or state_of == state) then
        if what == 'cancel' then
            meant = meant + (cancel(job) and 1 or 0)
        elseif what == 'retry' then
            meant = meant + (retry(job) and 1 or 0)
        else
            meant = meant + 1
            if #rows < most then
                show(job)
            end
        end
    end
end
settle()
return { upto, str(meant), rows }
