-- What every script begins with. KEYS[1] is the prefix of all keys of one listener.
--
-- A job's hash says all about it: the streams, the delayed set and the counters follow from the
-- hashes and from the lanes. Of a lane, a sorted set of places, only the first is ready (in a
-- stream, state r), delayed (d) or claimed (c), with those of its run claimed too; others are
-- behind (b). Times are microseconds by this server's clock.

local P = KEYS[1]
local GROUP = 'workers'
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Lua writes large numbers with an exponent.
local function str(number)
    return string.format('%.0f', number)
end

local tally = {}

local function count(observer, field, by)
    local of = tally[observer]
    if not of then
        of = {}
        tally[observer] = of
    end
    of[field] = (of[field] or 0) + by
end

-- Runs under way, by action.
local under_way = {}

local function run(act, by)
    under_way[act] = (under_way[act] or 0) + by
    under_way[''] = (under_way[''] or 0) + by
end

-- Writes what was counted; to be called last.
local function settle()
    for act, by in pairs(under_way) do
        if by ~= 0 and redis.call('HINCRBY', P .. 'running', act, by) <= 0 then
            redis.call('HDEL', P .. 'running', act)
        end
    end
    for observer, fields in pairs(tally) do
        local key = P .. 'figures:' .. observer
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

local function load(place)
    local values = redis.call('HMGET', P .. 'job:' .. place, unpack(FIELDS))
    if not values[1] or not values[7] then
        return nil
    end
    local job = { place = place }
    for i, field in ipairs(FIELDS) do
        job[field] = values[i] or nil
    end
    job.a = job.obs .. ':' .. job.act
    job.lane = job.hash .. ':' .. job.a
    job.due = tonumber(job.due)
    return job
end

local function set(job, ...)
    redis.call('HSET', P .. 'job:' .. job.place, ...)
end

local function to(job, state)
    count(job.obs, job.st, -1)
    count(job.obs, state, 1)
    job.st = state
end

local function attempted(job, attempts)
    count(job.obs, bucket(job.att), -1)
    count(job.obs, bucket(attempts), 1)
    job.att = attempts
end

local function turn_keys(job)
    local tenant = job.ten and ('=' .. job.ten) or ''
    local stream = P .. 'ready:' .. job.pri .. ':' .. #job.a .. ':' .. job.a .. ':' .. tenant
    return stream, P .. 'turns:' .. job.pri .. ':' .. job.a, P .. 'acts:' .. job.pri, tenant
end

local function last_in_rotation()
    return redis.call('INCR', P .. 'round')
end

-- Streams that are known to have their turn, since this script saw to it.
local seen = {}

local function put_ready(job)
    local stream, turns, acts, tenant = turn_keys(job)
    -- Those of one script come to one turn mostly.
    if not seen[stream] then
        seen[stream] = true
        if redis.call('ZADD', turns, 'NX', last_in_rotation(), tenant) == 1 then
            redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
        end
        redis.call('ZADD', acts, 'NX', last_in_rotation(), job.a)
    end
    job.en = redis.call('XADD', stream, '*', 'p', job.place)
    to(job, 'r')
    set(job, 'st', 'r', 'en', job.en)
end

-- A turn with an empty stream leaves no key behind.
local function forget_turn_if_empty(stream, turns, acts, tenant, act)
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
    redis.call('ZADD', P .. 'delayed', str(job.due), job.place)
    to(job, 'd')
    set(job, 'st', 'd')
end

-- Takes a job out of where it waits for a worker.
local function unplace(job)
    if job.st == 'r' then
        local stream, turns, acts, tenant = turn_keys(job)
        if job.en then
            redis.call('XDEL', stream, job.en)
        end
        forget_turn_if_empty(stream, turns, acts, tenant, job.a)
    elseif job.st == 'd' then
        redis.call('ZREM', P .. 'delayed', job.place)
    end
end

-- Lets the first job of a lane come, where it is behind.
local function advance(job)
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

local function hold(job, worker, token)
    job.claim = str(tonumber(job.claim) + 1)
    to(job, 'c')
    set(job, 'st', 'c', 'w', worker, 'claim', job.claim, 'tok', token)
    redis.call('ZADD', P .. 'held:' .. worker, job.place, job.place)
    if redis.call('HINCRBY', P .. 'held', job.lane, 1) == 1 then
        run(job.a, 1)
    end
end

-- Takes a claimed job from its worker; where it goes is the caller's.
local function free(job)
    redis.call('ZREM', P .. 'held:' .. job.w, job.place)
    if job.cx then
        redis.call('SREM', P .. 'cut:' .. job.w, job.place .. ':' .. job.claim)
    end
    if redis.call('HINCRBY', P .. 'held', job.lane, -1) <= 0 then
        redis.call('HDEL', P .. 'held', job.lane)
        run(job.a, -1)
    end
end

local function put_behind(job)
    redis.call('HDEL', P .. 'job:' .. job.place, 'w', 'tok', 'cx')
    to(job, 'b')
    set(job, 'st', 'b')
end

-- Forgets at most that many of the ids that ended too long ago, or are too many.
local function trim_recent(for_micros, at_most, steps)
    local old = redis.call('ZRANGEBYSCORE', P .. 'recent', '-inf', str(now - for_micros), 'LIMIT', 0, steps)
    if #old > 0 then
        redis.call('ZREM', P .. 'recent', unpack(old))
    end
    local surplus = redis.call('ZCARD', P .. 'recent') - at_most
    if surplus > 0 then
        redis.call('ZREMRANGEBYRANK', P .. 'recent', 0, math.min(surplus, steps) - 1)
    end
end

-- Ends a job that is in no stream, not delayed and not claimed any more.
local function remove(job, outcome, keep)
    redis.call('ZREM', P .. 'lane:' .. job.lane, job.place)
    redis.call('ZREM', P .. 'pending', job.place)
    redis.call('ZREM', P .. 'by:' .. job.obs, job.place)
    redis.call('HDEL', P .. 'names', job.id)
    redis.call('ZADD', P .. 'recent', str(now), job.id)
    count(job.obs, job.st, -1)
    count(job.obs, bucket(job.att), -1)
    count(job.obs, 'pending', -1)
    if keep then
        redis.call('HDEL', P .. 'job:' .. job.place, 'w', 'tok', 'cx')
        set(job, 'st', 'f', 'out', outcome, 'end', str(now))
        redis.call('ZADD', P .. 'done', str(now), job.place)
        redis.call('HSET', P .. 'ended', job.id, job.place)
    else
        redis.call('DEL', P .. 'job:' .. job.place)
    end
end

-- Makes delayed jobs ready whose time has come.
local function promote(at_most)
    local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', str(now), 'LIMIT', 0, at_most)
    for _, place in ipairs(due) do
        redis.call('ZREM', P .. 'delayed', place)
        local job = load(place)
        if job and job.st == 'd' then
            put_ready(job)
        end
    end
end
