-- name: claim_replicate
-- $1 limit, $2 seconds: due rows nobody else is claiming, most urgent first; they are due again after $2 seconds unless finished.
WITH due AS (
    SELECT fid FROM file_to_replicate WHERE nexttry <= extract(epoch FROM clock_timestamp())::int
    ORDER BY nexttry LIMIT $1::int FOR UPDATE SKIP LOCKED)
UPDATE file_to_replicate q SET nexttry = ceil(extract(epoch FROM clock_timestamp()))::int + $2::int
FROM due WHERE q.fid = due.fid
RETURNING q.fid, q.nexttry, q.fromdevid, q.failcount;

-- name: finish_replicate
-- $1 fids, $2 nexttry as claimed: drop rows; one that was queued again meanwhile stays.
DELETE FROM file_to_replicate q USING unnest($1::bigint[], $2::int[]) AS done(fid, claimed)
WHERE q.fid = done.fid AND q.nexttry = done.claimed;

-- name: retry_replicate
-- $1 fids, $2 nexttry as claimed, $3 delay seconds (negative: never again), $4 failcounts.
UPDATE file_to_replicate q
SET failcount = again.failcount,
    nexttry = CASE WHEN again.delay < 0 THEN 2147483647
                   ELSE ceil(extract(epoch FROM clock_timestamp()) + again.delay)::int END
FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::smallint[]) AS again(fid, claimed, delay, failcount)
WHERE q.fid = again.fid AND q.nexttry = again.claimed;

-- name: enqueue_replicate
-- $1 fids, $2 nexttry: queue files for replication; a row that waits longer is brought forward.
INSERT INTO file_to_replicate AS q (fid, nexttry)
SELECT fid, nexttry FROM unnest($1::bigint[], $2::int[]) AS new(fid, nexttry) ORDER BY fid
ON CONFLICT (fid) DO UPDATE SET nexttry = least(q.nexttry, excluded.nexttry)
WHERE q.nexttry > excluded.nexttry;

-- name: bring_forward
-- $1 seconds, $2 limit: rows that wait after a failure, longer than any claim lasts, become due: something has changed for the better.
UPDATE file_to_replicate SET nexttry = 1 WHERE fid IN (
    SELECT fid FROM file_to_replicate
    WHERE nexttry > extract(epoch FROM clock_timestamp())::int + $1::int AND nexttry < 2147483647 AND failcount > 0
    ORDER BY nexttry LIMIT $2::int FOR UPDATE SKIP LOCKED);

-- name: enqueue_missing_replicate
-- $1 fids, $2 nexttry: queue files for replication unless they are queued already, however late.
INSERT INTO file_to_replicate (fid, nexttry)
SELECT fid, nexttry FROM unnest($1::bigint[], $2::int[]) AS new(fid, nexttry) ORDER BY fid ON CONFLICT (fid) DO NOTHING;

-- name: claim_delete
-- $1 limit, $2 seconds: due rows of the delete queue.
WITH due AS (
    SELECT fid FROM file_to_delete2 WHERE nexttry <= extract(epoch FROM clock_timestamp())::int
    ORDER BY nexttry LIMIT $1::int FOR UPDATE SKIP LOCKED)
UPDATE file_to_delete2 q SET nexttry = ceil(extract(epoch FROM clock_timestamp()))::int + $2::int
FROM due WHERE q.fid = due.fid
RETURNING q.fid, q.nexttry, q.failcount;

-- name: finish_delete
-- $1 fids, $2 nexttry as claimed: drop rows of the delete queue.
DELETE FROM file_to_delete2 q USING unnest($1::bigint[], $2::int[]) AS done(fid, claimed)
WHERE q.fid = done.fid AND q.nexttry = done.claimed;

-- name: retry_delete
-- $1 fids, $2 nexttry as claimed, $3 delay seconds, $4 failcounts.
UPDATE file_to_delete2 q
SET failcount = again.failcount, nexttry = ceil(extract(epoch FROM clock_timestamp()) + again.delay)::int
FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::smallint[]) AS again(fid, claimed, delay, failcount)
WHERE q.fid = again.fid AND q.nexttry = again.claimed;

-- name: forget_deleted
-- $1 fids, $2 devids: the bytes of these copies are gone (or their device is).
DELETE FROM file_on o USING unnest($1::bigint[], $2::smallint[]) AS gone(fid, devid)
WHERE o.fid = gone.fid AND o.devid = gone.devid;

-- name: forget_fids
-- $1 fids: nothing of these fids is left on any device; drop what else is known of them.
WITH sums AS (DELETE FROM checksum WHERE fid = ANY($1::bigint[]))
DELETE FROM tempfile WHERE fid = ANY($1::bigint[]);

-- name: deletable
-- $1 fids: does the file still exist, and where are copies?
SELECT q.fid, EXISTS (SELECT 1 FROM file f WHERE f.fid = q.fid) AS exists,
       ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = q.fid ORDER BY o.devid) AS holders
FROM unnest($1::bigint[]) AS q(fid);

-- name: expired_tempfiles
-- $1 age seconds, $2 limit: uploads that were never closed go to the delete queue, with every device they may have reached.
WITH old AS (
    SELECT fid, devids FROM tempfile WHERE createtime < extract(epoch FROM clock_timestamp())::int - $1::int
    ORDER BY fid LIMIT $2::int FOR UPDATE SKIP LOCKED),
orphans AS (SELECT fid, devids FROM old WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = old.fid)),
placed AS (
    INSERT INTO file_on (fid, devid)
    SELECT o.fid, devid::smallint FROM orphans o, unnest(string_to_array(nullif(o.devids, ''), ',')) AS devid
    ON CONFLICT DO NOTHING),
queued AS (
    INSERT INTO file_to_delete2 (fid, nexttry)
    SELECT fid, extract(epoch FROM clock_timestamp())::int FROM orphans ON CONFLICT DO NOTHING)
DELETE FROM tempfile t USING old WHERE t.fid = old.fid;

-- name: old_delete_queue
-- $1 limit: rows of MogileFS's first delete queue move to the present one.
WITH moved AS (
    DELETE FROM file_to_delete WHERE fid IN (SELECT fid FROM file_to_delete LIMIT $1::int FOR UPDATE SKIP LOCKED) RETURNING fid)
INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, 0 FROM moved ON CONFLICT DO NOTHING;

-- name: old_delayed_deletes
-- $1 limit: due rows of MogileFS's delayed deletes move to the present queue.
WITH moved AS (
    DELETE FROM file_to_delete_later WHERE fid IN (
        SELECT fid FROM file_to_delete_later WHERE delafter <= extract(epoch FROM clock_timestamp())::int
        LIMIT $1::int FOR UPDATE SKIP LOCKED)
    RETURNING fid)
INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, 0 FROM moved ON CONFLICT DO NOTHING;

-- name: claim_moves
-- $1 limit, $2 seconds: due moves (file_to_queue type 2).
WITH due AS (
    SELECT fid FROM file_to_queue WHERE type = 2 AND nexttry <= extract(epoch FROM clock_timestamp())::int
    ORDER BY nexttry LIMIT $1::int FOR UPDATE SKIP LOCKED)
UPDATE file_to_queue q SET nexttry = ceil(extract(epoch FROM clock_timestamp()))::int + $2::int
FROM due WHERE q.fid = due.fid AND q.type = 2
RETURNING q.fid, q.nexttry, q.devid, q.flags, q.arg;

-- name: finish_moves
-- $1 fids, $2 nexttry as claimed: drop moves.
DELETE FROM file_to_queue q USING unnest($1::bigint[], $2::int[]) AS done(fid, claimed)
WHERE q.fid = done.fid AND q.type = 2 AND q.nexttry = done.claimed;

-- name: retry_moves
-- $1 fids, $2 nexttry as claimed, $3 delay seconds: moves that could not be looked at now.
UPDATE file_to_queue q SET nexttry = ceil(extract(epoch FROM clock_timestamp()) + again.delay)::int
FROM unnest($1::bigint[], $2::int[], $3::float8[]) AS again(fid, claimed, delay)
WHERE q.fid = again.fid AND q.type = 2 AND q.nexttry = again.claimed;

-- name: enqueue_moves
-- $1 fids, $2 source devids, $3 destination lists, $4 flags (on whose behalf: 0 rebalance, 1 balance, 2 drain).
INSERT INTO file_to_queue (fid, devid, type, nexttry, flags, arg)
SELECT fid, devid, 2, extract(epoch FROM clock_timestamp())::int, flags, arg
FROM unnest($1::bigint[], $2::int[], $3::text[], $4::smallint[]) AS new(fid, devid, arg, flags) ORDER BY fid
ON CONFLICT (fid, type) DO NOTHING;

-- name: pending_moves
-- $1 limit: moves that wait, with the bytes they will shift.
SELECT q.fid, q.devid, q.arg, coalesce(f.length, 0) AS length
FROM file_to_queue q LEFT JOIN file f USING (fid) WHERE q.type = 2 LIMIT $1::int;

-- name: backlog
-- $1 most rows counted: how much waits, without ever counting a long queue to its end.
SELECT (SELECT count(*) FROM (SELECT 1 FROM file_to_replicate LIMIT $1::int) r) AS to_replicate,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_delete2 LIMIT $1::int) d) AS to_delete,
       (SELECT count(*) FROM (SELECT 1 FROM mogile_copy_delete WHERE NOT deleted LIMIT $1::int) c) AS copies_to_delete,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 2 LIMIT $1::int) m) AS to_move;

-- name: due
-- $1 most rows counted, $2 seconds a claim lasts: what each job class has to do now, rows that are being worked on included; a row that
-- waits out a delay is no work yet. Index scans, so a long queue costs no more than the limit.
SELECT (SELECT count(*) FROM (SELECT 1 FROM file_to_replicate WHERE nexttry <= n.soon LIMIT $1::int) r) AS replicate,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_delete2 WHERE nexttry <= n.soon LIMIT $1::int) d) AS delete,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 1 AND nexttry <= n.soon LIMIT $1::int) f) AS fsck,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 2 AND nexttry <= n.soon LIMIT $1::int) m) AS rebalance
FROM (SELECT ceil(extract(epoch FROM clock_timestamp()))::int + $2::int AS soon) n;
