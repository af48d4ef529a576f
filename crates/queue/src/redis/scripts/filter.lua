-- Runs a command on the jobs that match a filter, one page in each call.
-- ARGV: command (list, retry, cancel, show), cursor or '', page size, max rows, observer or '', action or '',
-- state or '', tenant or '', then ids, if any.
-- Returns the next cursor ('' at the end), how many jobs matched, and rows of fields.
local command, cursor, page_size, max_rows = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local observer, action, state, tenant = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local refs, next_cursor = {}, ''
if #ARGV > 8 then
    for at = 9, #ARGV do
        local ref = redis.call('HGET', P .. 'ids', ARGV[at])
            or ((command == 'list' or command == 'show') and redis.call('HGET', P .. 'completed_ids', ARGV[at]))
        if ref then
            refs[#refs + 1] = ref
        end
    end
elseif state == 'f' then
    local from = cursor == '' and 0 or tonumber(cursor)
    refs = redis.call('ZRANGE', P .. 'completed', from, from + page_size - 1)
    next_cursor = #refs == page_size and str(from + page_size) or ''
else
    local index = observer == '' and 'pending' or 'observer:' .. observer
    refs = redis.call('ZRANGEBYSCORE', P .. index, cursor == '' and '-inf' or '(' .. cursor, '+inf', 'LIMIT', 0, page_size)
    next_cursor = #refs == page_size and refs[#refs] or ''
end

local matched, rows = 0, {}

local function show(job)
    local fields = redis.call('HMGET', P .. 'job:' .. job.ref, 'ev', 'ent', 'key', 'hist', 'event', 'end')
    local name = job.w and redis.call('HGET', P .. 'worker_names', job.w) or job.w or false
    rows[#rows + 1] = {
        job.ref, job.id, job.st, job.obs, job.act, fields[1], fields[2], fields[3], job.ten or false, job.pri, job.att,
        job.at, fields[6] or str(job.due), name, fields[4], command == 'show' and fields[5] or false,
    }
end

local function cancel(job)
    if job.st == 'c' then
        if job.cx then
            return false
        end
        set(job, 'cx', '1')
        redis.call('SADD', P .. 'cancelled:' .. job.w, job.ref .. ':' .. job.claim)
    else
        unindex(job)
        finish_job(job, 'cancelled', false)
        unblock_next(job)
    end
    return true
end

local function retry(job)
    if job.st ~= 'd' or job.due <= now then
        return false
    end
    unindex(job)
    job.due = now
    set(job, 'due', str(now))
    put_ready(job)
    return true
end

for _, ref in ipairs(refs) do
    local job = load(ref)
    if job and (observer == '' or job.obs == observer) and (action == '' or job.act == action)
        and (state == '' or job.st == state) and (tenant == '' or job.ten == tenant) then
        if command == 'cancel' then
            matched = matched + (cancel(job) and 1 or 0)
        elseif command == 'retry' then
            matched = matched + (retry(job) and 1 or 0)
        else
            matched = matched + 1
            if #rows < max_rows then
                show(job)
            end
        end
    end
end
flush_counters()
return { next_cursor, str(matched), rows }
