-- Claims the first jobs of some lanes, with some of those behind them.
-- ARGV: worker, token of this call, max lanes, max jobs of a lane, max running lanes of the fleet or '',
-- bytes of events after which no more is claimed, then for each known action observer, action and its max
-- running lanes or ''.
-- Returns a row for each job: number of its batch, ref, generation, queue delay, and its fields.
local MAX_PROMOTED = 1000
local MAX_ACTIONS = 512
local ROUNDS = 4
local worker, token = ARGV[1], ARGV[2]
local lanes_left, max_jobs = tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes_left = tonumber(ARGV[6])
local expires = redis.call('ZSCORE', P .. 'workers', worker)
if not expires or tonumber(expires) <= now or redis.call('EXISTS', P .. 'void_claims:' .. token) == 1 then
    return {}
end
promote(MAX_PROMOTED)

if ARGV[5] ~= '' then
    local all = tonumber(redis.call('HGET', P .. 'running', '') or '0')
    lanes_left = math.min(lanes_left, tonumber(ARGV[5]) - all)
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

local rows, batches = {}, 0

local function row(job)
    local more = redis.call('HMGET', P .. 'job:' .. job.ref, 'log', 'ev', 'ent', 'key', 'event', 'hist')
    bytes_left = bytes_left - #(more[5] or '')
    rows[#rows + 1] = {
        tostring(batches), job.ref, job.claim, str(math.max(now - job.due, 0)), job.id, job.obs, job.act, job.hash,
        more[1], more[2], more[3], more[4], job.ten or false, job.pri, more[5], job.att, more[6], job.at,
    }
end

local function claim_lane(job)
    batches = batches + 1
    lanes_left = lanes_left - 1
    known[job.a] = known[job.a] - 1
    claim_job(job, worker, token)
    row(job)
    for _, ref in ipairs(redis.call('ZRANGE', P .. 'lane:' .. job.lane, 1, max_jobs - 1)) do
        local follower = bytes_left > 0 and load(ref)
        if not follower or follower.st ~= 'b' or follower.due > now then
            return
        end
        claim_job(follower, worker, token)
        row(follower)
    end
end

-- Delivered entries are deleted at once, so everything in a stream is yet to be delivered: a group that is
-- lost is created before all entries, and one that is past some of them is set back.
local function read(stream, n)
    local answer = redis.pcall(
        'XREADGROUP', 'GROUP', GROUP, 'any', 'COUNT', n, 'NOACK', 'STREAMS', stream, '>')
    if answer and answer.err then
        redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
        redis.call('SET', P .. 'damaged', '1')
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

-- Claims at most n lanes of one action, round-robin over its tenants. Returns their number.
local function claim_of_action(priority, act, n)
    local turns, acts = P .. 'tenant_rotation:' .. priority .. ':' .. act, P .. 'action_rotation:' .. priority
    local tenants = redis.call('ZRANGE', turns, 0, n - 1)
    local share, before = math.ceil(n / math.max(#tenants, 1)), batches
    for _, tenant in ipairs(tenants) do
        local want = math.min(share, n - (batches - before))
        if want < 1 or bytes_left < 1 then
            break
        end
        local stream = P .. 'ready:' .. priority .. ':' .. #act .. ':' .. act .. ':' .. tenant
        local ids, is_cut = {}, false
        for _, entry in ipairs(read(stream, want)) do
            if bytes_left < 1 then
                is_cut = true
                break
            end
            ids[#ids + 1] = entry[1]
            local job = entry[2] and load(entry[2][2])
            if job and job.st == 'r' and job.en == entry[1] then
                claim_lane(job)
            end
        end
        if #ids > 0 then
            redis.call('XDEL', stream, unpack(ids))
        end
        if is_cut then
            -- Entries that were read and not claimed are read again.
            redis.call('XGROUP', 'SETID', stream, GROUP, '0')
        end
        if not remove_stream_if_empty(stream, turns, acts, tenant, act) then
            redis.call('ZADD', turns, end_of_rotation(), tenant)
        end
    end
    if #tenants == 0 then
        redis.call('ZREM', acts, act)
    elseif redis.call('ZSCORE', acts, act) then
        redis.call('ZADD', acts, end_of_rotation(), act)
    end
    return batches - before
end

for priority = 0, 2 do
    if lanes_left < 1 or bytes_left < 1 then
        break
    end
    local candidates = {}
    local in_rotation = redis.call('ZRANGE', P .. 'action_rotation:' .. priority, 0, MAX_ACTIONS - 1)
    for _, act in ipairs(in_rotation) do
        if known[act] and known[act] > 0 then
            candidates[#candidates + 1] = act
        end
    end
    if #candidates == 0 and #in_rotation == MAX_ACTIONS then
        -- This worker can run none of these now: the next ones come first in the next claim.
        for _, act in ipairs(in_rotation) do
            redis.call('ZADD', P .. 'action_rotation:' .. priority, end_of_rotation(), act)
        end
    end
    for _ = 1, ROUNDS do
        if lanes_left < 1 or bytes_left < 1 or #candidates == 0 then
            break
        end
        local share, still = math.ceil(lanes_left / #candidates), {}
        for _, act in ipairs(candidates) do
            local n = math.min(share, lanes_left, known[act])
            if n > 0 and claim_of_action(priority, act, n) > 0 then
                still[#still + 1] = act
            end
        end
        candidates = still
    end
end
flush_counters()
return rows
