-- name: settings
-- State and options of fsck, the limits of its queue, and what else decides whether it may run.
SELECT field, coalesce(value, '') AS value FROM server_settings
WHERE field LIKE 'fsck\_%' OR field IN ('rebal_host', 'queue_rate_for_fsck', 'queue_size_for_fsck');

-- name: lock_log
-- One writer of the log at a time, so that log ids are committed in order and a reader that pages by them misses nothing.
SELECT pg_advisory_xact_lock(hashtextextended('mogile:fsck-log', 0));

-- name: database_time
-- Unix seconds of the clock all times of MogileFS's tables are on.
SELECT extract(epoch FROM clock_timestamp())::int;

-- name: max_fid
-- The newest file.
SELECT coalesce(max(fid), 0) FROM file;

-- name: max_logid
-- The newest event.
SELECT coalesce(max(logid), 0) FROM fsck_log;

-- name: forget_counts
-- The counts of an earlier run.
DELETE FROM server_settings WHERE field LIKE 'fsck\_sum\_evcount\_%';

-- name: scope
-- What the present run is limited to; no row: nothing.
SELECT dmid, classid, prefix FROM mogile_fsck;

-- name: set_scope
-- $1 dmid, $2 classid, $3 prefix as stored in dkey; NULL is no limit.
INSERT INTO mogile_fsck (dmid, classid, prefix) VALUES ($1::smallint, $2::smallint, $3::text)
ON CONFLICT (only_row) DO UPDATE SET dmid = excluded.dmid, classid = excluded.classid, prefix = excluded.prefix;

-- name: next_part
-- $1 after fid, $2 last fid, $3 limit, $4 dmid, $5 classid, $6 prefix: the next files by fid; the limits choose among these, so that a
-- step looks at no more than $3 rows however few of them are wanted. scanned and last_fid tell where to go on.
WITH part AS MATERIALIZED (
    SELECT fid, dmid, classid, dkey FROM file WHERE fid > $1::bigint AND fid <= $2::bigint ORDER BY fid LIMIT $3::int)
SELECT (SELECT count(*) FROM part) AS scanned, (SELECT max(fid) FROM part) AS last_fid,
       ARRAY(SELECT fid FROM part
             WHERE ($4::smallint IS NULL OR dmid = $4::smallint) AND ($5::smallint IS NULL OR classid = $5::smallint)
               AND ($6::text IS NULL OR starts_with(dkey, $6::text)) ORDER BY fid) AS fids;

-- name: enqueue
-- $1 fids: to be checked (file_to_queue type 1). A row that waits, or is being worked on, is due at once again.
INSERT INTO file_to_queue AS q (fid, type, nexttry)
SELECT fid, 1, 1 FROM unnest($1::bigint[]) AS fid ORDER BY fid
ON CONFLICT (fid, type) DO UPDATE SET nexttry = 1 WHERE q.nexttry > 1;

-- name: queued
-- $1 most rows counted of each: checks that are due or under way, and those that wait because a device did not answer.
SELECT (SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 1 AND failcount = 0 LIMIT $1::int) q) AS due,
       (SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 1 AND failcount > 0 LIMIT $1::int) w) AS waiting;

-- name: claim
-- $1 limit, $2 seconds: due checks nobody else is claiming.
WITH due AS (
    SELECT fid FROM file_to_queue WHERE type = 1 AND nexttry <= extract(epoch FROM clock_timestamp())::int
    ORDER BY nexttry LIMIT $1::int FOR UPDATE SKIP LOCKED)
UPDATE file_to_queue q SET nexttry = ceil(extract(epoch FROM clock_timestamp()))::int + $2::int
FROM due WHERE q.fid = due.fid AND q.type = 1
RETURNING q.fid, q.nexttry, q.failcount;

-- name: finish
-- $1 fids, $2 nexttry as claimed: checked. Not older than the claim (>=), because a check that reads long files outlasts its claim, and
-- another tracker that found the file's lease taken has put the row off; a row queued anew meanwhile is older (1) and stays.
DELETE FROM file_to_queue q USING unnest($1::bigint[], $2::int[]) AS done(fid, claimed)
WHERE q.fid = done.fid AND q.type = 1 AND q.nexttry >= done.claimed;

-- name: retry
-- $1 fids, $2 nexttry as claimed, $3 delay seconds, $4 failcounts.
UPDATE file_to_queue q
SET failcount = again.failcount, nexttry = ceil(extract(epoch FROM clock_timestamp()) + again.delay)::int
FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::smallint[]) AS again(fid, claimed, delay, failcount)
WHERE q.fid = again.fid AND q.type = 1 AND q.nexttry >= again.claimed;

-- name: log
-- $1 fids, $2 codes, $3 devids (NULL: none): what was found. After lock_log.
INSERT INTO fsck_log (utime, fid, evcode, devid)
SELECT extract(epoch FROM clock_timestamp())::int, fid, code, devid
FROM unnest($1::bigint[], $2::text[], $3::smallint[]) WITH ORDINALITY AS new(fid, code, devid, place) ORDER BY place;

-- name: add_counts
-- $1 setting names, $2 numbers: running sums in the settings. After lock_log.
INSERT INTO server_settings AS s (field, value)
SELECT field, n::text FROM unnest($1::text[], $2::bigint[]) AS new(field, n) ORDER BY field
ON CONFLICT (field) DO UPDATE SET value = (coalesce(nullif(s.value, ''), '0')::bigint + excluded.value::bigint)::text;

-- name: log_is_counted
-- MogileFS's trackers count events after this id themselves. After log, in its transaction.
INSERT INTO server_settings (field, value) SELECT 'fsck_logid_processed', coalesce(max(logid), 0)::text FROM fsck_log
ON CONFLICT (field) DO UPDATE SET value = excluded.value;

-- name: read_log
-- $1 after log id, $2 limit.
SELECT logid, utime, fid, trim(evcode) AS evcode, devid FROM fsck_log WHERE logid > $1::bigint ORDER BY logid LIMIT $2::int;

-- name: clear_log
-- All events.
DELETE FROM fsck_log;

-- name: add_locations
-- $1 fids, $2 devids: copies that were found. Not where a copy is being deleted or made: its bytes may be gone a moment later. After
-- lock_files, in its transaction.
INSERT INTO file_on (fid, devid)
SELECT n.fid, n.devid FROM unnest($1::bigint[], $2::smallint[]) AS n(fid, devid) JOIN file f ON f.fid = n.fid
WHERE NOT EXISTS (SELECT 1 FROM mogile_copy_delete d WHERE d.fid = n.fid AND d.devid = n.devid)
  AND NOT EXISTS (SELECT 1 FROM mogile_copy_intent i WHERE i.fid = n.fid AND i.devid = n.devid)
ON CONFLICT DO NOTHING
RETURNING fid, devid;

-- name: forget_lost
-- $1 fids, $2 devids: locations whose devices said that nothing is there, of files that no device has. Only where these (and those on dead
-- devices) are all locations the file has by now. After lock_files, in its transaction.
WITH lost AS (SELECT * FROM unnest($1::bigint[], $2::smallint[]) AS n(fid, devid))
DELETE FROM file_on o USING lost n
WHERE o.fid = n.fid AND o.devid = n.devid
  AND NOT EXISTS (SELECT 1 FROM file_on other JOIN device d ON d.devid = other.devid
                  WHERE other.fid = o.fid AND d.status <> 'dead'
                    AND NOT EXISTS (SELECT 1 FROM lost m WHERE m.fid = other.fid AND m.devid = other.devid))
RETURNING o.fid, o.devid;

-- name: set_checksums
-- $1 fids, $2 hash types, $3 digests: the digest of files; one of another algorithm is replaced. After lock_files, in its transaction.
INSERT INTO checksum (fid, hashtype, checksum)
SELECT n.fid, n.hashtype, n.digest FROM unnest($1::bigint[], $2::smallint[], $3::bytea[]) AS n(fid, hashtype, digest)
JOIN file f ON f.fid = n.fid
ON CONFLICT (fid) DO UPDATE SET hashtype = excluded.hashtype, checksum = excluded.checksum;
