-- Takes the first jobs of some lanes, with some of those behind them.
-- ARGV: worker, token of this call, most runs, most jobs of a run, most in the fleet or '', the bytes
-- of events after which no more is claimed, then for each action known observer, action and most of
-- it or ''.
-- Answers with one row for each job: number of its run, place, claim, how late, and its fields.
local MOST_PROMOTED = 1000
local MOST_ACTS = 512
local ROUNDS = 4
local worker, token = ARGV[1], ARGV[2]
local open, most_run = tonumber(ARGV[3]), tonumber(ARGV[4])
local open_bytes = tonumber(ARGV[6])
local expires = redis.call('ZSCORE', P .. 'workers', worker)
if not expires or tonumber(expires) <= now or redis.call('EXISTS', P .. 'void:' .. token) == 1 then
    return {}
end
promote(MOST_PROMOTED)

if ARGV[5] ~= '' then
    local all = tonumber(redis.call('HGET', P .. 'running', '') or '0')
    open = math.min(open, tonumber(ARGV[5]) - all)
end
local known = {}
for at = 7, #ARGV, 3 do
    local act = ARGV[at] .. ':' .. ARGV[at + 1]
    if ARGV[at + 2] == '' then
        known[act] = math.huge
    else
        known[act] = tonumber(ARGV[at + 2]) - tonumber(redis.call('HGET', P .. 'running', act) or '0')
    end
end

local rows, runs = {}, 0

local function row(job)
    local more = redis.call('HMGET', P .. 'job:' .. job.place, 'log', 'ev', 'ent', 'key', 'event', 'hist')
    open_bytes = open_bytes - #(more[5] or '')
    rows[#rows + 1] = {
        tostring(runs), job.place, job.claim, str(math.max(now - job.due, 0)), job.id, job.obs, job.act, job.hash,
        more[1], more[2], more[3], more[4], job.ten or false, job.pri, more[5], job.att, more[6], job.at,
    }
end

local function claim_run(job)
    runs = runs + 1
    open = open - 1
    known[job.a] = known[job.a] - 1
    hold(job, worker, token)
    row(job)
    for _, place in ipairs(redis.call('ZRANGE', P .. 'lane:' .. job.lane, 1, most_run - 1)) do
        local follower = open_bytes > 0 and load(place)
        if not follower or follower.st ~= 'b' or follower.due > now then
            return
        end
        hold(follower, worker, token)
        row(follower)
    end
end

-- Delivered entries are deleted at once, so whatever is in a stream is to be delivered: a group
-- that is gone is made anew before all entries, and one that is past some of them goes back.
local function read(stream, n)
    local answer = redis.pcall(
        'XREADGROUP', 'GROUP', GROUP, 'any', 'COUNT', n, 'NOACK', 'STREAMS', stream, '>')
    if answer and answer.err then
        redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
        redis.call('SET', P .. 'torn', '1')
    elseif answer then
        return answer[1][2]
    elseif redis.call('XLEN', stream) == 0 then
        return {}
    else
        redis.call('XGROUP', 'SETID', stream, GROUP, '0')
    end
    answer = redis.call('XREADGROUP', 'GROUP', GROUP, 'any', 'COUNT', n, 'NOACK', 'STREAMS', stream, '>')
    return answer and answer[1][2] or {}
end

-- At most n runs of one action, its tenants taking turns. Answers with how many.
local function take(priority, act, n)
    local turns, acts = P .. 'turns:' .. priority .. ':' .. act, P .. 'acts:' .. priority
    local tenants = redis.call('ZRANGE', turns, 0, n - 1)
    local share, before = math.ceil(n / math.max(#tenants, 1)), runs
    for _, tenant in ipairs(tenants) do
        local want = math.min(share, n - (runs - before))
        if want < 1 or open_bytes < 1 then
            break
        end
        local stream = P .. 'ready:' .. priority .. ':' .. #act .. ':' .. act .. ':' .. tenant
        local ids, is_cut = {}, false
        for _, entry in ipairs(read(stream, want)) do
            if open_bytes < 1 then
                is_cut = true
                break
            end
            ids[#ids + 1] = entry[1]
            local job = entry[2] and load(entry[2][2])
            if job and job.st == 'r' and job.en == entry[1] then
                claim_run(job)
            end
        end
        if #ids > 0 then
            redis.call('XDEL', stream, unpack(ids))
        end
        if is_cut then
            -- What was read and not claimed is read again.
            redis.call('XGROUP', 'SETID', stream, GROUP, '0')
        end
        if not forget_turn_if_empty(stream, turns, acts, tenant, act) then
            redis.call('ZADD', turns, last_in_rotation(), tenant)
        end
    end
    if #tenants == 0 then
        redis.call('ZREM', acts, act)
    elseif redis.call('ZSCORE', acts, act) then
        redis.call('ZADD', acts, last_in_rotation(), act)
    end
    return runs - before
end

for priority = 0, 2 do
    if open < 1 or open_bytes < 1 then
        break
    end
    local candidates = {}
    local in_rotation = redis.call('ZRANGE', P .. 'acts:' .. priority, 0, MOST_ACTS - 1)
    for _, act in ipairs(in_rotation) do
        if known[act] and known[act] > 0 then
            candidates[#candidates + 1] = act
        end
    end
    if #candidates == 0 and #in_rotation == MOST_ACTS then
        -- None of these is for this worker now: the next ones come first the next time.
        for _, act in ipairs(in_rotation) do
            redis.call('ZADD', P .. 'acts:' .. priority, last_in_rotation(), act)
        end
    end
    for _ = 1, ROUNDS do
        if open < 1 or open_bytes < 1 or #candidates == 0 then
            break
        end
        local share, still = math.ceil(open / #candidates), {}
        for _, act in ipairs(candidates) do
            local n = math.min(share, open, known[act])
            if n > 0 and take(priority, act, n) > 0 then
                still[#still + 1] = act
            end
        end
        candidates = still
    end
end
settle()
return rows
