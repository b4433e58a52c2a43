-- name: look
-- $1 fids: all that a copying job needs to know; dmid is NULL when the file is gone.
SELECT q.fid, f.dmid, f.classid, f.length, f.devcount, c.hashtype, c.checksum,
       ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = q.fid ORDER BY o.devid) AS holders,
       ARRAY(SELECT d.devid FROM mogile_copy_delete d WHERE d.fid = q.fid) AS busy_deleting,
       ARRAY(SELECT i.devid FROM mogile_copy_intent i WHERE i.fid = q.fid) AS busy_copying
FROM unnest($1::bigint[]) AS q(fid) LEFT JOIN file f ON f.fid = q.fid LEFT JOIN checksum c ON c.fid = q.fid;

-- name: intend
-- $1 fids, $2 devids, $3 seconds each: announce copies; refused where an older copy still waits to be deleted.
INSERT INTO mogile_copy_intent (fid, devid, until)
SELECT new.fid, new.devid, extract(epoch FROM clock_timestamp())::int + new.seconds
FROM unnest($1::bigint[], $2::smallint[], $3::int[]) AS new(fid, devid, seconds)
WHERE NOT EXISTS (SELECT 1 FROM mogile_copy_delete d WHERE d.fid = new.fid AND d.devid = new.devid)
  AND NOT EXISTS (SELECT 1 FROM file_on o WHERE o.fid = new.fid AND o.devid = new.devid)
ORDER BY new.fid, new.devid
ON CONFLICT (fid, devid) DO NOTHING
RETURNING fid, devid;

-- name: prolong_intents
-- $1 fids, $2 devids, $3 seconds each: their maker is alive, the copies take longer.
UPDATE mogile_copy_intent i SET until = extract(epoch FROM clock_timestamp())::int + longer.seconds
FROM unnest($1::bigint[], $2::smallint[], $3::int[]) AS longer(fid, devid, seconds)
WHERE i.fid = longer.fid AND i.devid = longer.devid RETURNING i.fid, i.devid;

-- name: lock_files
-- $1 fids: lock the rows of the files that exist; whoever changes copies of a fid holds this lock.
SELECT fid, dmid, classid, length FROM file WHERE fid = ANY($1::bigint[]) ORDER BY fid FOR UPDATE;

-- name: made
-- $1 fids, $2 devids, $3 copy ids: copies that are there. Only an intent that still stands becomes a location; if the file is gone
-- meanwhile the copy is deleted again. To be run after lock_files, in its transaction.
WITH new AS (SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[]) AS n(fid, devid, copy_id)),
standing AS (
    DELETE FROM mogile_copy_intent i USING new n WHERE i.fid = n.fid AND i.devid = n.devid
    RETURNING i.fid, i.devid, n.copy_id),
orphaned AS (
    INSERT INTO mogile_copy_delete (fid, devid, copy_id, nexttry)
    SELECT s.fid, s.devid, s.copy_id, extract(epoch FROM clock_timestamp())::int
    FROM standing s WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = s.fid) ON CONFLICT DO NOTHING)
INSERT INTO file_on (fid, devid)
SELECT s.fid, s.devid FROM standing s JOIN file f ON f.fid = s.fid ON CONFLICT DO NOTHING
RETURNING fid, devid;

-- name: not_made
-- $1 fids, $2 devids, $3 delay seconds: copies that failed or whose outcome is unknown; whatever bytes there may be are deleted.
WITH failed AS (
    DELETE FROM mogile_copy_intent i USING unnest($1::bigint[], $2::smallint[], $3::int[]) AS n(fid, devid, delay)
    WHERE i.fid = n.fid AND i.devid = n.devid RETURNING i.fid, i.devid, n.delay)
INSERT INTO mogile_copy_delete (fid, devid, nexttry)
SELECT f.fid, f.devid, extract(epoch FROM clock_timestamp())::int + f.delay FROM failed f
WHERE NOT EXISTS (SELECT 1 FROM file_on o WHERE o.fid = f.fid AND o.devid = f.devid)
ON CONFLICT DO NOTHING;

-- name: expire_intents
-- $1 limit: copies whose maker died; whatever bytes there may be are deleted.
WITH late AS (
    DELETE FROM mogile_copy_intent i USING (
        SELECT fid, devid FROM mogile_copy_intent WHERE until < extract(epoch FROM clock_timestamp())::int
        LIMIT $1::int FOR UPDATE SKIP LOCKED) AS l
    WHERE i.fid = l.fid AND i.devid = l.devid RETURNING i.fid, i.devid)
INSERT INTO mogile_copy_delete (fid, devid, nexttry)
SELECT l.fid, l.devid, extract(epoch FROM clock_timestamp())::int FROM late l
WHERE NOT EXISTS (SELECT 1 FROM file_on o WHERE o.fid = l.fid AND o.devid = l.devid)
ON CONFLICT DO NOTHING;

-- name: count_copies
-- $1 fids: bring file.devcount in line with the locations.
UPDATE file f SET devcount = c.copies
FROM (SELECT q.fid, (SELECT count(*) FROM file_on o WHERE o.fid = q.fid)::smallint AS copies
      FROM unnest($1::bigint[]) AS q(fid)) c
WHERE f.fid = c.fid AND f.devcount <> c.copies;

-- name: lock_devices
-- Hold all device states still until this transaction ends.
SELECT devid FROM device ORDER BY devid FOR SHARE;

-- name: locations
-- $1 fids: where copies are now; a statement of its own after the locks, so that it sees everything committed before them.
SELECT fid, devid FROM file_on WHERE fid = ANY($1::bigint[]);

-- name: device_states
-- Every device with the states that decide whether its copies may be relied on.
SELECT d.devid, d.hostid, coalesce(d.status, 'down') AS status, coalesce(h.status, 'down') AS host_status,
       coalesce(m.out_since IS NOT NULL, false) AS out
FROM device d LEFT JOIN host h ON h.hostid = d.hostid LEFT JOIN mogile_device m ON m.devid = d.devid;

-- name: take_locations
-- $1 fids, $2 devids, $3 copy ids, $4 delay seconds: locations become copy deletes. Only after the proof, in its transaction.
WITH new AS (SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[]) AS n(fid, devid, copy_id)),
gone AS (
    DELETE FROM file_on o USING new n WHERE o.fid = n.fid AND o.devid = n.devid RETURNING o.fid, o.devid, n.copy_id)
INSERT INTO mogile_copy_delete (fid, devid, copy_id, nexttry)
SELECT fid, devid, copy_id, extract(epoch FROM clock_timestamp())::int + $4::int FROM gone
ON CONFLICT (fid, devid) DO UPDATE SET copy_id = excluded.copy_id, nexttry = excluded.nexttry, deleted = false
RETURNING fid, devid, nexttry;

-- name: claim_copy_deletes
-- $1 limit, $2 seconds: due copy deletes, each with whether the copy has become a location again.
WITH due AS (
    SELECT fid, devid FROM mogile_copy_delete WHERE nexttry <= extract(epoch FROM clock_timestamp())::int
    ORDER BY nexttry LIMIT $1::int FOR UPDATE SKIP LOCKED)
UPDATE mogile_copy_delete q SET nexttry = ceil(extract(epoch FROM clock_timestamp()))::int + $2::int
FROM due WHERE q.fid = due.fid AND q.devid = due.devid
RETURNING q.fid, q.devid, q.copy_id, q.nexttry, q.failcount, q.deleted,
          EXISTS (SELECT 1 FROM file_on o WHERE o.fid = q.fid AND o.devid = q.devid) AS location;

-- name: name_copy
-- $1 fid, $2 devid, $3 nexttry as claimed, $4 copy id or NULL: the copy that lies there, found after the claim; no row when that is lost.
UPDATE mogile_copy_delete SET copy_id = $4::text WHERE fid = $1::bigint AND devid = $2::smallint AND nexttry = $3::int;

-- name: finish_copy_deletes
-- $1 fids, $2 devids, $3 nexttry as claimed.
DELETE FROM mogile_copy_delete q USING unnest($1::bigint[], $2::smallint[], $3::int[]) AS done(fid, devid, claimed)
WHERE q.fid = done.fid AND q.devid = done.devid AND q.nexttry = done.claimed;

-- name: retry_copy_deletes
-- $1 fids, $2 devids, $3 nexttry as claimed, $4 delay seconds, $5 failcounts, $6 deleted.
UPDATE mogile_copy_delete q
SET failcount = again.failcount, deleted = again.deleted,
    nexttry = ceil(extract(epoch FROM clock_timestamp()) + again.delay)::int
FROM unnest($1::bigint[], $2::smallint[], $3::int[], $4::float8[], $5::smallint[], $6::boolean[])
    AS again(fid, devid, claimed, delay, failcount, deleted)
WHERE q.fid = again.fid AND q.devid = again.devid AND q.nexttry = again.claimed;

-- name: store_checksums
-- $1 fids, $2 hash types, $3 digests: first digest of a file whose class wants one.
INSERT INTO checksum (fid, hashtype, checksum)
SELECT n.fid, n.hashtype, n.digest FROM unnest($1::bigint[], $2::smallint[], $3::bytea[]) AS n(fid, hashtype, digest)
JOIN file f ON f.fid = n.fid ON CONFLICT (fid) DO NOTHING;

-- name: on_device
-- $1 devid, $2 after fid, $3 limit: fids on a device in order.
SELECT fid FROM file_on WHERE devid = $1::smallint AND fid > $2::bigint ORDER BY fid LIMIT $3::int;

-- name: urgency
-- $1 fids, $2 devids whose copies do not count: how many copies are left elsewhere.
SELECT q.fid, EXISTS (SELECT 1 FROM file f WHERE f.fid = q.fid) AS exists,
       (SELECT count(*) FROM file_on o WHERE o.fid = q.fid AND NOT o.devid = ANY($2::smallint[]))::int AS copies
FROM unnest($1::bigint[]) AS q(fid);

-- name: forget_dead_copies
-- $1 dead devid, $2 fids, $3 all dead devids: drop locations on a dead device. Never the last one: a fid keeps its rows until it has one on
-- a device that is not dead (or is no file any more). After lock_files, in its transaction.
DELETE FROM file_on o USING unnest($2::bigint[]) AS q(fid)
WHERE o.devid = $1::smallint AND o.fid = q.fid
  AND EXISTS (SELECT 1 FROM device d WHERE d.devid = o.devid AND d.status = 'dead')
  AND (NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = o.fid)
       OR EXISTS (SELECT 1 FROM file_on other JOIN device d ON d.devid = other.devid
                  WHERE other.fid = o.fid AND d.status <> 'dead' AND NOT other.devid = ANY($3::smallint[])))
RETURNING o.fid;

-- name: lost_on_device
-- $1 devid, $2 limit: files on a device that have no location on any device that is not dead.
SELECT o.fid FROM file_on o JOIN file f ON f.fid = o.fid
WHERE o.devid = $1::smallint
  AND NOT EXISTS (SELECT 1 FROM file_on other JOIN device d ON d.devid = other.devid WHERE other.fid = o.fid AND d.status <> 'dead')
ORDER BY o.fid LIMIT $2::int;

-- name: forget_lost_copies
-- $1 dead devid, $2 fids: drop the locations of files that have none on a device that is not dead: their loss was confirmed. After
-- lock_files and lock_devices, in their transaction.
DELETE FROM file_on o USING unnest($2::bigint[]) AS q(fid)
WHERE o.devid = $1::smallint AND o.fid = q.fid
  AND EXISTS (SELECT 1 FROM device d WHERE d.devid = o.devid AND d.status = 'dead')
  AND NOT EXISTS (SELECT 1 FROM file_on other JOIN device d ON d.devid = other.devid WHERE other.fid = o.fid AND d.status <> 'dead')
RETURNING o.fid;

-- name: walks
-- All walks over devices; `again`: a second one follows, `due`: it may begin.
SELECT devid, why, last_fid, finished, again_at IS NOT NULL AS again,
       coalesce(again_at <= extract(epoch FROM clock_timestamp())::int, false) AS due
FROM mogile_device_walk;

-- name: start_walk
-- $1 devid, $2 why, $3 seconds: begin (again) at the first fid; a second walk follows no sooner than in so many seconds.
INSERT INTO mogile_device_walk (devid, why, again_at)
VALUES ($1::smallint, $2::text, ceil(extract(epoch FROM clock_timestamp()) + $3::float8)::int)
ON CONFLICT (devid) DO UPDATE SET why = excluded.why, last_fid = 0, finished = false, again_at = excluded.again_at;

-- name: start_last_walk
-- $1 devid, $2 why: the second walk begins.
UPDATE mogile_device_walk SET last_fid = 0, finished = false, again_at = NULL
WHERE devid = $1::smallint AND why = $2::text AND finished AND again_at IS NOT NULL;

-- name: advance_walk
-- $1 devid, $2 why, $3 last fid, $4 finished.
UPDATE mogile_device_walk SET last_fid = $3::bigint, finished = $4::boolean WHERE devid = $1::smallint AND why = $2::text;

-- name: end_walk
-- $1 devid, $2 why: the walk is over and needs no memory.
DELETE FROM mogile_device_walk WHERE devid = $1::smallint AND why = $2::text;

-- name: record_space
-- $1 devids, $2 mb_total, $3 mb_used: what the monitor measured.
UPDATE device d SET mb_total = n.total, mb_used = n.used, mb_asof = extract(epoch FROM clock_timestamp())::int
FROM unnest($1::smallint[], $2::int[], $3::int[]) AS n(devid, total, used),
     (SELECT devid FROM device WHERE devid = ANY($1::smallint[]) ORDER BY devid FOR UPDATE SKIP LOCKED) AS mine
WHERE d.devid = n.devid AND d.devid = mine.devid;

-- name: record_volumes
-- $1 devids, $2 volume ids: the volume first seen behind a device; another one later is not taken for it.
INSERT INTO mogile_device (devid, volume_id)
SELECT n.devid, n.volume FROM unnest($1::smallint[], $2::uuid[]) AS n(devid, volume) ORDER BY n.devid
ON CONFLICT (devid) DO UPDATE SET volume_id = excluded.volume_id WHERE mogile_device.volume_id IS NULL;

-- name: volumes
-- The volumes devices are known by.
SELECT devid, volume_id FROM mogile_device WHERE volume_id IS NOT NULL;
