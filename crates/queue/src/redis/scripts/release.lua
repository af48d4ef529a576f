-- Takes back some of what a worker holds, in the order of their lanes, and forgets the worker once
-- it holds nothing. Where it is lost, the first job of each lane has had one more attempt.
-- ARGV: worker, what to say of it in the history or '', most jobs, most attempts of a history,
-- whether only if it has not been heard of for too long.
-- Answers with how many were taken back.
local worker, lost, most_history = ARGV[1], ARGV[2], tonumber(ARGV[4])
local expires = redis.call('ZSCORE', P .. 'workers', worker)
if ARGV[5] == '1' and expires and tonumber(expires) > now then
    return 0
end

-- As RFC 3339, which the sandbox has nothing for.
local function written(micros)
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

local function noted(history)
    local ok, attempts = pcall(cjson.decode, history or '[]')
    local told = {}
    for i, attempt in ipairs(ok and type(attempts) == 'table' and attempts or {}) do
        told[i] = cjson.encode(attempt)
    end
    told[#told + 1] = '{"at":"' .. written(now) .. '","kind":"lost","error":' .. cjson.encode(lost) .. ',"status":null}'
    local from = math.max(#told - most_history + 1, 1)
    return '[' .. table.concat(told, ',', from) .. ']'
end

local lanes, freed = {}, 0
for _, place in ipairs(redis.call('ZRANGE', P .. 'held:' .. worker, 0, tonumber(ARGV[3]) - 1)) do
    local job = load(place)
    if not job or job.st ~= 'c' or job.w ~= worker then
        redis.call('ZREM', P .. 'held:' .. worker, place)
    else
        local first = redis.call('ZRANGE', P .. 'lane:' .. job.lane, 0, 0)[1] == place
        free(job)
        if job.cx then
            remove(job, 'cancelled', false)
        else
            if lost ~= '' and first then
                attempted(job, str(tonumber(job.att) + 1))
                set(job, 'att', job.att, 'hist', noted(redis.call('HGET', P .. 'job:' .. place, 'hist')))
            end
            put_behind(job)
        end
        lanes[job.lane] = job
    end
    freed = freed + 1
end
for _, job in pairs(lanes) do
    advance(job)
end
if redis.call('EXISTS', P .. 'held:' .. worker) == 0 then
    redis.call('ZREM', P .. 'workers', worker)
    redis.call('HDEL', P .. 'people', worker)
    redis.call('DEL', P .. 'cut:' .. worker)
end
settle()
return freed
