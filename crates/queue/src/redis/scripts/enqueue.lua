-- Adds jobs, each at the end of its lane. Jobs whose dedup key is pending or ended recently are skipped, so
-- that a repeat changes nothing.
-- ARGV: for each job id, observer, action, hash, log id, event id, entity, key or '', whether it
-- has a key, tenant or '', whether it has a tenant, priority, event, delay, attempts, history.
local WIDTH = 16
local added, acts = 0, {}
for at = 1, #ARGV, WIDTH do
    local id, observer, action, hash = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    if redis.call('HEXISTS', P .. 'ids', id) == 0 and not redis.call('ZSCORE', P .. 'recent_ids', id) then
        local ref = str(redis.call('INCR', P .. 'seq'))
        local due = now + tonumber(ARGV[at + 13])
        local job = {
            ref = ref, obs = observer, act = action, hash = hash, pri = ARGV[at + 11], due = due,
            att = ARGV[at + 14], st = 'b', claim = '0', a = observer .. ':' .. action,
        }
        job.lane = hash .. ':' .. job.a
        set(job, 'id', id, 'obs', observer, 'act', action, 'hash', hash, 'log', ARGV[at + 4], 'ev', ARGV[at + 5],
            'ent', ARGV[at + 6], 'pri', job.pri, 'event', ARGV[at + 12], 'due', str(due), 'at', str(now),
            'att', job.att, 'hist', ARGV[at + 15], 'claim', '0', 'st', 'b')
        if ARGV[at + 8] == '1' then
            set(job, 'key', ARGV[at + 7])
        end
        if ARGV[at + 10] == '1' then
            job.ten = ARGV[at + 9]
            set(job, 'ten', job.ten)
        end
        redis.call('HSET', P .. 'ids', id, ref)
        redis.call('ZADD', P .. 'pending', ref, ref)
        redis.call('ZADD', P .. 'observer:' .. observer, ref, ref)
        if not acts[job.a] then
            acts[job.a] = true
            redis.call('SADD', P .. 'observers', observer)
            redis.call('SADD', P .. 'actions', job.a)
        end
        redis.call('SADD', P .. 'lanes:' .. job.a, hash)
        redis.call('ZADD', P .. 'lane:' .. job.lane, ref, ref)
        count(observer, 'pending', 1)
        count(observer, 'b', 1)
        count(observer, bucket(job.att), 1)
        if redis.call('ZCARD', P .. 'lane:' .. job.lane) == 1 then
            if tonumber(ARGV[at + 13]) > 0 then
                put_delayed(job)
            else
                put_ready(job)
            end
        end
        added = added + 1
    end
end
flush_counters()
return added
