-- Releases some claims of a worker, in the order of their lanes, and removes the worker once it has none.
-- With an error, the first job of each lane gets one more attempt.
-- ARGV: worker, error for the history or '', max jobs, max attempts of a history, whether only if its lease
-- has expired.
-- Returns the number of released claims.
local worker, error, max_history = ARGV[1], ARGV[2], tonumber(ARGV[4])
local expires = redis.call('ZSCORE', P .. 'workers', worker)
if ARGV[5] == '1' and expires and tonumber(expires) > now then
    return 0
end

-- Formats a time as RFC 3339, which the sandbox cannot.
local function rfc3339(micros)
    local days, second = math.floor(micros / 86400000000), math.floor(micros / 1000000) % 86400
    local z = days + 719468
    local era = math.floor(z / 146097)
    local doe = z - era * 146097
    local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
    local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
    local mp = math.floor((5 * doy + 2) / 153)
    local month = mp < 10 and mp + 3 or mp - 9
    local year = yoe + era * 400 + (month <= 2 and 1 or 0)
    return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
        math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, micros % 1000000)
end

local function with_lost_attempt(history)
    local ok, attempts = pcall(cjson.decode, history or '[]')
    local encoded = {}
    for i, attempt in ipairs(ok and type(attempts) == 'table' and attempts or {}) do
        encoded[i] = cjson.encode(attempt)
    end
    encoded[#encoded + 1] = '{"at":"' .. rfc3339(now) .. '","kind":"lost","error":' .. cjson.encode(error) .. ',"status":null}'
    local from = math.max(#encoded - max_history + 1, 1)
    return '[' .. table.concat(encoded, ',', from) .. ']'
end

local lanes, freed = {}, 0
for _, ref in ipairs(redis.call('ZRANGE', P .. 'claims:' .. worker, 0, tonumber(ARGV[3]) - 1)) do
    local job = load(ref)
    if not job or job.st ~= 'c' or job.w ~= worker then
        redis.call('ZREM', P .. 'claims:' .. worker, ref)
    else
        local first = redis.call('ZRANGE', P .. 'lane:' .. job.lane, 0, 0)[1] == ref
        release_claim(job)
        if job.cx then
            finish_job(job, 'cancelled', false)
        else
            if error ~= '' and first then
                record_attempts(job, str(tonumber(job.att) + 1))
                set(job, 'att', job.att, 'hist', with_lost_attempt(redis.call('HGET', P .. 'job:' .. ref, 'hist')))
            end
            put_blocked(job)
        end
        lanes[job.lane] = job
    end
    freed = freed + 1
end
for _, job in pairs(lanes) do
    unblock_next(job)
end
if redis.call('EXISTS', P .. 'claims:' .. worker) == 0 then
    redis.call('ZREM', P .. 'workers', worker)
    redis.call('HDEL', P .. 'worker_names', worker)
    redis.call('DEL', P .. 'cancelled:' .. worker)
end
flush_counters()
return freed
