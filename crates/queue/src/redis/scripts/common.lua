-- Prelude of every script. KEYS[1] is the prefix of all keys of one listener.
--
-- A job's hash is the source of truth: streams, the delayed set and counters are indexes that follow from
-- the hashes and the lanes. A lane is a sorted set of job refs. Only its first job is ready (in a stream,
-- state r), delayed (d) or claimed (c), with those of its batch claimed too; the others are blocked (b).
-- Times are microseconds of this server's clock.

local P = KEYS[1]
local GROUP = 'workers'
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Lua writes large numbers with an exponent.
local function str(number)
    return string.format('%.0f', number)
end

local counters = {}

local function count(observer, field, by)
    local of = counters[observer]
    if not of then
        of = {}
        counters[observer] = of
    end
    of[field] = (of[field] or 0) + by
end

-- Changes of running lanes, by action.
local running = {}

local function count_running(act, by)
    running[act] = (running[act] or 0) + by
    running[''] = (running[''] or 0) + by
end

-- Writes the counters; call it last.
local function flush_counters()
    for act, by in pairs(running) do
        if by ~= 0 and redis.call('HINCRBY', P .. 'running', act, by) <= 0 then
            redis.call('HDEL', P .. 'running', act)
        end
    end
    for observer, fields in pairs(counters) do
        local key = P .. 'stats:' .. observer
        for field, by in pairs(fields) do
            if by ~= 0 then
                redis.call('HINCRBY', key, field, by)
            end
        end
        if tonumber(redis.call('HGET', key, 'pending') or '0') <= 0 then
            redis.call('DEL', key)
            redis.call('SREM', P .. 'observers', observer)
        end
    end
end

local function bucket(attempts)
    local n = tonumber(attempts)
    if n < 2 then
        return 'a' .. n
    end
    return n < 4 and 'a2' or n < 8 and 'a3' or 'a4'
end

local FIELDS = {
    'id', 'obs', 'act', 'hash', 'ten', 'pri', 'st', 'due', 'at', 'att', 'claim', 'w', 'en', 'cx', 'tok',
}

local function load(ref)
    local values = redis.call('HMGET', P .. 'job:' .. ref, unpack(FIELDS))
    if not values[1] or not values[7] then
        return nil
    end
    local job = { ref = ref }
    for i, field in ipairs(FIELDS) do
        job[field] = values[i] or nil
    end
    job.a = job.obs .. ':' .. job.act
    job.lane = job.hash .. ':' .. job.a
    job.due = tonumber(job.due)
    return job
end

local function set(job, ...)
    redis.call('HSET', P .. 'job:' .. job.ref, ...)
end

local function set_state(job, state)
    count(job.obs, job.st, -1)
    count(job.obs, state, 1)
    job.st = state
end

local function record_attempts(job, attempts)
    count(job.obs, bucket(job.att), -1)
    count(job.obs, bucket(attempts), 1)
    job.att = attempts
end

local function rotation_keys(job)
    local tenant = job.ten and ('=' .. job.ten) or ''
    local stream = P .. 'ready:' .. job.pri .. ':' .. #job.a .. ':' .. job.a .. ':' .. tenant
    return stream, P .. 'tenant_rotation:' .. job.pri .. ':' .. job.a, P .. 'action_rotation:' .. job.pri, tenant
end

local function end_of_rotation()
    return redis.call('INCR', P .. 'rotation_seq')
end

-- Streams that this script has put into the rotation.
local seen = {}

local function put_ready(job)
    local stream, turns, acts, tenant = rotation_keys(job)
    if not seen[stream] then
        seen[stream] = true
        if redis.call('ZADD', turns, 'NX', end_of_rotation(), tenant) == 1 then
            redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
        end
        redis.call('ZADD', acts, 'NX', end_of_rotation(), job.a)
    end
    job.en = redis.call('XADD', stream, '*', 'p', job.ref)
    set_state(job, 'r')
    set(job, 'st', 'r', 'en', job.en)
end

-- Removes an empty stream and its place in the rotation. Whether it did.
local function remove_stream_if_empty(stream, turns, acts, tenant, act)
    if redis.call('XLEN', stream) == 0 then
        seen[stream] = nil
        redis.call('DEL', stream)
        redis.call('ZREM', turns, tenant)
        if redis.call('EXISTS', turns) == 0 then
            redis.call('ZREM', acts, act)
        end
        return true
    end
    return false
end

local function put_delayed(job)
    redis.call('ZADD', P .. 'delayed', str(job.due), job.ref)
    set_state(job, 'd')
    set(job, 'st', 'd')
end

-- Removes a job from the stream or the delayed set.
local function unindex(job)
    if job.st == 'r' then
        local stream, turns, acts, tenant = rotation_keys(job)
        if job.en then
            redis.call('XDEL', stream, job.en)
        end
        remove_stream_if_empty(stream, turns, acts, tenant, job.a)
    elseif job.st == 'd' then
        redis.call('ZREM', P .. 'delayed', job.ref)
    end
end

-- Makes the first job of a lane ready or delayed if it is blocked.
local function unblock_next(job)
    local first = redis.call('ZRANGE', P .. 'lane:' .. job.lane, 0, 0)[1]
    if not first then
        redis.call('SREM', P .. 'lanes:' .. job.a, job.hash)
        if redis.call('EXISTS', P .. 'lanes:' .. job.a) == 0 then
            redis.call('SREM', P .. 'actions', job.a)
        end
        return
    end
    local next_job = load(first)
    if next_job and next_job.st == 'b' then
        if next_job.due > now then
            put_delayed(next_job)
        else
            put_ready(next_job)
        end
    end
end

local function claim_job(job, worker, token)
    job.claim = str(tonumber(job.claim) + 1)
    set_state(job, 'c')
    set(job, 'st', 'c', 'w', worker, 'claim', job.claim, 'tok', token)
    redis.call('ZADD', P .. 'claims:' .. worker, job.ref, job.ref)
    if redis.call('HINCRBY', P .. 'claimed_lanes', job.lane, 1) == 1 then
        count_running(job.a, 1)
    end
end

-- Releases a claim; the caller decides where the job goes.
local function release_claim(job)
    redis.call('ZREM', P .. 'claims:' .. job.w, job.ref)
    if job.cx then
        redis.call('SREM', P .. 'cancelled:' .. job.w, job.ref .. ':' .. job.claim)
    end
    if redis.call('HINCRBY', P .. 'claimed_lanes', job.lane, -1) <= 0 then
        redis.call('HDEL', P .. 'claimed_lanes', job.lane)
        count_running(job.a, -1)
    end
end

local function put_blocked(job)
    redis.call('HDEL', P .. 'job:' .. job.ref, 'w', 'tok', 'cx')
    set_state(job, 'b')
    set(job, 'st', 'b')
end

-- Trims the dedup keys of ended jobs by age and number, a bounded number of steps.
local function trim_recent_ids(for_micros, at_most, steps)
    local old = redis.call('ZRANGEBYSCORE', P .. 'recent_ids', '-inf', str(now - for_micros), 'LIMIT', 0, steps)
    if #old > 0 then
        redis.call('ZREM', P .. 'recent_ids', unpack(old))
    end
    local surplus = redis.call('ZCARD', P .. 'recent_ids') - at_most
    if surplus > 0 then
        redis.call('ZREMRANGEBYRANK', P .. 'recent_ids', 0, math.min(surplus, steps) - 1)
    end
end

-- Ends a job that is in no stream, not delayed and not claimed.
local function finish_job(job, outcome, keep)
    redis.call('ZREM', P .. 'lane:' .. job.lane, job.ref)
    redis.call('ZREM', P .. 'pending', job.ref)
    redis.call('ZREM', P .. 'observer:' .. job.obs, job.ref)
    redis.call('HDEL', P .. 'ids', job.id)
    redis.call('ZADD', P .. 'recent_ids', str(now), job.id)
    count(job.obs, job.st, -1)
    count(job.obs, bucket(job.att), -1)
    count(job.obs, 'pending', -1)
    if keep then
        redis.call('HDEL', P .. 'job:' .. job.ref, 'w', 'tok', 'cx')
        set(job, 'st', 'f', 'out', outcome, 'end', str(now))
        redis.call('ZADD', P .. 'completed', str(now), job.ref)
        redis.call('HSET', P .. 'completed_ids', job.id, job.ref)
    else
        redis.call('DEL', P .. 'job:' .. job.ref)
    end
end

-- Makes delayed jobs ready that are due.
local function promote(at_most)
    local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', str(now), 'LIMIT', 0, at_most)
    for _, ref in ipairs(due) do
        redis.call('ZREM', P .. 'delayed', ref)
        local job = load(ref)
        if job and job.st == 'd' then
            put_ready(job)
        end
    end
end
