-- Statements on sets of files. `LATERAL (... LIMIT 1)` and `= ANY (ARRAY (...))` keep the planner at one index look-up per item, whatever it
-- believed about the tables' sizes when the plan was made. A key is compared as a row and ordered for the same reason: of the two indexes
-- that begin with dmid only the one on (dmid, dkey) has that order. On a table without statistics plain equality took the other one and read
-- every file of the domain at each command, until the first ANALYZE.

-- name: lookup
-- $1 dmids, $2 keys: the files with their devices, numbered like the input.
SELECT i.n, f.fid, f.length, f.classid, f.devcount, ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = f.fid) AS devids
FROM unnest($1::smallint[], $2::text[]) WITH ORDINALITY AS i(dmid, dkey, n)
CROSS JOIN LATERAL (SELECT fid, length, classid, devcount FROM file WHERE (file.dmid, file.dkey) >= (i.dmid, i.dkey) AND (file.dmid, file.dkey) <= (i.dmid, i.dkey)
        ORDER BY file.dmid, file.dkey LIMIT 1) AS f;

-- name: lookup_one
-- $1 dmid, $2 key: the same for a single key, without the set's machinery, which costs more than the look-up.
SELECT f.fid, f.length, f.classid, f.devcount, ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = f.fid) AS devids
FROM file f WHERE (f.dmid, f.dkey) >= ($1, $2) AND (f.dmid, f.dkey) <= ($1, $2) ORDER BY f.dmid, f.dkey LIMIT 1;

-- name: checksums
-- $1 fids: stored digests.
SELECT fid, hashtype, checksum FROM checksum WHERE fid = ANY ($1::bigint[]);

-- name: open
-- $1 classids, $2 dmids, $3 keys, $4 device lists: new uploads; fids that were taken by hand before come back as not made.
WITH i AS MATERIALIZED (
    SELECT n, nextval('tempfile_fid_seq') AS fid, classid, dmid, dkey, devids
    FROM unnest($1::smallint[], $2::smallint[], $3::text[], $4::text[]) WITH ORDINALITY AS t(classid, dmid, dkey, devids, n)
), made AS (
    INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids)
    SELECT fid, extract(epoch FROM now())::int, classid, dmid, dkey, devids FROM i
    WHERE NOT EXISTS (SELECT 1 FROM file WHERE file.fid = i.fid)
    ON CONFLICT (fid) DO NOTHING
    RETURNING fid
)
SELECT i.n, i.fid, made.fid IS NOT NULL AS made FROM i LEFT JOIN made ON made.fid = i.fid;

-- name: reserve
-- $1 how many: fids for `open_reserved`, and the server they are of. A statement of its own and committed synchronously: more than 32 of them
-- always write a log record, so none is given again, whatever crashes.
SELECT array_agg(nextval('tempfile_fid_seq')) AS fids, pg_postmaster_start_time() AS server FROM generate_series(1, $1::int);

-- name: open_reserved
-- $1 classids, $2 dmids, $3 keys, $4 device lists, $5 reserved fids, $6 the server they are of: new uploads without waiting for a sync, for
-- nobody was promised that an upload survives which is not closed. `same` false: this is another server, nothing was done. The subquery
-- takes effect because every row is compared with what it gives.
WITH here AS MATERIALIZED (
    SELECT pg_postmaster_start_time() = $6::timestamptz AND set_config('synchronous_commit', 'off', true) = 'off' AS same
), i AS MATERIALIZED (
    SELECT t.* FROM unnest($1::smallint[], $2::smallint[], $3::text[], $4::text[], $5::bigint[])
        WITH ORDINALITY AS t(classid, dmid, dkey, devids, fid, n)
), made AS (
    INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids)
    SELECT fid, extract(epoch FROM now())::int, classid, dmid, dkey, devids FROM i
    WHERE (SELECT same FROM here) AND NOT EXISTS (SELECT 1 FROM file WHERE file.fid = i.fid)
    ON CONFLICT (fid) DO NOTHING
    RETURNING fid
)
SELECT i.n, i.fid, made.fid IS NOT NULL AS made, (SELECT same FROM here) AS same FROM i LEFT JOIN made ON made.fid = i.fid;

-- name: reopen
-- $1 fids, $2 times, $3 classids, $4 dmids, $5 keys, $6 device lists: uploads that the database may have forgotten in a crash; those that
-- were gone come back. Waits for whoever is closing one of them.
INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::smallint[], $4::smallint[], $5::text[], $6::text[])
ON CONFLICT (fid) DO NOTHING RETURNING fid;

-- name: reopened_in_vain
-- $1 fids that came back: those that were gone because they had been closed or given up go again. After `reopen`, in its transaction: only
-- a new snapshot sees what that waited for.
DELETE FROM tempfile t WHERE fid = ANY ($1::bigint[])
  AND (EXISTS (SELECT 1 FROM file f WHERE f.fid = t.fid) OR EXISTS (SELECT 1 FROM file_on o WHERE o.fid = t.fid)
       OR EXISTS (SELECT 1 FROM file_to_delete2 d WHERE d.fid = t.fid));

-- name: open_as
-- $1 fid, $2 classid, $3 dmid, $4 key, $5 device list: an upload under a fid the client asks for; no row when it is in use. A fid whose
-- old bytes still wait to be deleted is in use too: the delete would find the new ones.
INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids)
SELECT $1::bigint, extract(epoch FROM now())::int, $2::smallint, $3::smallint, $4::text, $5::text
WHERE NOT EXISTS (SELECT 1 FROM file WHERE fid = $1::bigint)
  AND NOT EXISTS (SELECT 1 FROM file_on WHERE fid = $1::bigint)
  AND NOT EXISTS (SELECT 1 FROM file_to_delete2 WHERE fid = $1::bigint)
  AND NOT EXISTS (SELECT 1 FROM mogile_copy_delete WHERE fid = $1::bigint)
ON CONFLICT (fid) DO NOTHING
RETURNING fid;

-- name: uploads
-- $1 fids: uploads that are open.
SELECT fid, classid, dmid, devids FROM tempfile WHERE fid = ANY ($1::bigint[]);

-- name: close
-- $1 fids, $2 dmids, $3 keys, $4 lengths, $5 devids, $6 hashtypes or NULL, $7 digests or NULL, $8 whether replication is to look at the
-- file; the keys are locked.
-- Answers with the fids of those that are closed now. The upload's row decides who closes; the old file of the key goes to the delete queue before the new one is inserted (`n` forces the order).
WITH i AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[], $5::smallint[], $6::smallint[], $7::bytea[], $8::boolean[])
        AS t(fid, dmid, dkey, length, devid, hashtype, digest, queue)
), t AS MATERIALIZED (
    DELETE FROM tempfile WHERE fid = ANY ($1::bigint[]) RETURNING fid, classid
), old AS (
    DELETE FROM file WHERE fid = ANY (ARRAY(
        SELECT f.fid FROM i JOIN t USING (fid)
        CROSS JOIN LATERAL (SELECT fid FROM file WHERE (file.dmid, file.dkey) >= (i.dmid, i.dkey) AND (file.dmid, file.dkey) <= (i.dmid, i.dkey)
        ORDER BY file.dmid, file.dkey LIMIT 1) AS f))
    RETURNING fid
), n AS MATERIALIZED (
    SELECT count(*) AS replaced FROM old
), gone AS (
    INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, extract(epoch FROM now())::int FROM old ON CONFLICT (fid) DO NOTHING
), up AS (
    INSERT INTO file (fid, dmid, dkey, length, classid, devcount)
    SELECT i.fid, i.dmid, i.dkey, i.length, t.classid, 1 FROM i JOIN t USING (fid) CROSS JOIN n
    RETURNING fid
), placed AS (
    INSERT INTO file_on (fid, devid) SELECT i.fid, i.devid FROM i JOIN t USING (fid) ON CONFLICT (fid, devid) DO NOTHING
), queued AS (
    INSERT INTO file_to_replicate (fid, nexttry) SELECT i.fid, 0 FROM i JOIN t USING (fid) WHERE i.queue ON CONFLICT (fid) DO NOTHING
), summed AS (
    INSERT INTO checksum (fid, hashtype, checksum) SELECT i.fid, i.hashtype, i.digest FROM i JOIN t USING (fid) WHERE i.hashtype IS NOT NULL
    ON CONFLICT (fid) DO UPDATE SET hashtype = excluded.hashtype, checksum = excluded.checksum
)
SELECT array_agg(fid) AS closed FROM up;

-- name: settle_intents
-- $1 fids, $2 devids: further copies of uploads that are being closed. Those whose intent still stands come back, and it is over; the
-- others ran out and are being deleted. In the closing transaction, before `close`.
DELETE FROM mogile_copy_intent i USING unnest($1::bigint[], $2::smallint[]) AS n(fid, devid)
WHERE i.fid = n.fid AND i.devid = n.devid RETURNING i.fid, i.devid;

-- name: place_copies
-- $1 fids, $2 devids: further copies of files that were just closed become locations.
WITH placed AS (
    INSERT INTO file_on (fid, devid) SELECT * FROM unnest($1::bigint[], $2::smallint[]) ON CONFLICT (fid, devid) DO NOTHING RETURNING fid
)
UPDATE file SET devcount = file.devcount + n.copies FROM (SELECT fid, count(*)::smallint AS copies FROM placed GROUP BY fid) AS n
WHERE file.fid = n.fid;

-- name: discard_copies
-- $1 fids, $2 devids: further copies of uploads that were not closed after all are deleted again.
INSERT INTO mogile_copy_delete (fid, devid, nexttry)
SELECT fid, devid, extract(epoch FROM clock_timestamp())::int FROM unnest($1::bigint[], $2::smallint[]) AS n(fid, devid)
ON CONFLICT DO NOTHING;

-- name: abandon
-- $1 fids, $2 devids: uploads that failed at close: the bytes that may lie there are recorded and queued for deletion.
WITH t AS MATERIALIZED (
    DELETE FROM tempfile WHERE fid = ANY ($1::bigint[]) RETURNING fid
), placed AS (
    INSERT INTO file_on (fid, devid)
    SELECT i.fid, i.devid FROM unnest($1::bigint[], $2::smallint[]) AS i(fid, devid) JOIN t USING (fid) ON CONFLICT (fid, devid) DO NOTHING
), gone AS (
    INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, extract(epoch FROM now())::int FROM t ON CONFLICT (fid) DO NOTHING
)
SELECT fid FROM t;

-- name: delete
-- $1 dmids, $2 keys; the keys are locked. Answers with the numbers of those that were there.
WITH f AS MATERIALIZED (
    SELECT i.n, f.fid FROM unnest($1::smallint[], $2::text[]) WITH ORDINALITY AS i(dmid, dkey, n)
    CROSS JOIN LATERAL (SELECT fid FROM file WHERE (file.dmid, file.dkey) >= (i.dmid, i.dkey) AND (file.dmid, file.dkey) <= (i.dmid, i.dkey)
        ORDER BY file.dmid, file.dkey LIMIT 1) AS f
), d AS MATERIALIZED (
    DELETE FROM file WHERE fid = ANY (ARRAY(SELECT fid FROM f)) RETURNING fid
), gone AS (
    INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, extract(epoch FROM now())::int FROM d ON CONFLICT (fid) DO NOTHING
)
SELECT f.n FROM f JOIN d USING (fid);

-- name: rename
-- $1 dmids, $2 keys, $3 new keys; all are locked.
WITH f AS MATERIALIZED (
    SELECT i.n, f.fid, i.new_key,
           (SELECT t.fid FROM file t WHERE (t.dmid, t.dkey) >= (i.dmid, i.new_key) AND (t.dmid, t.dkey) <= (i.dmid, i.new_key)
            ORDER BY t.dmid, t.dkey LIMIT 1) IS NOT NULL AS taken
    FROM unnest($1::smallint[], $2::text[], $3::text[]) WITH ORDINALITY AS i(dmid, dkey, new_key, n)
    CROSS JOIN LATERAL (SELECT fid FROM file WHERE (file.dmid, file.dkey) >= (i.dmid, i.dkey) AND (file.dmid, file.dkey) <= (i.dmid, i.dkey)
        ORDER BY file.dmid, file.dkey LIMIT 1) AS f
), u AS (
    UPDATE file SET dkey = f.new_key FROM f
    WHERE file.fid = ANY (ARRAY(SELECT fid FROM f WHERE NOT taken)) AND file.fid = f.fid
)
SELECT n, taken FROM f;

-- name: updateclass
-- $1 dmids, $2 keys, $3 class ids; the keys are locked. A file without any recorded copy is left alone.
WITH f AS MATERIALIZED (
    SELECT i.n, f.fid, i.classid, f.classid <> i.classid AS differs, EXISTS (SELECT 1 FROM file_on o WHERE o.fid = f.fid) AS placed
    FROM unnest($1::smallint[], $2::text[], $3::smallint[]) WITH ORDINALITY AS i(dmid, dkey, classid, n)
    CROSS JOIN LATERAL (SELECT fid, classid FROM file WHERE (file.dmid, file.dkey) >= (i.dmid, i.dkey) AND (file.dmid, file.dkey) <= (i.dmid, i.dkey)
        ORDER BY file.dmid, file.dkey LIMIT 1) AS f
), u AS (
    UPDATE file SET classid = f.classid FROM f
    WHERE file.fid = ANY (ARRAY(SELECT fid FROM f WHERE differs AND placed)) AND file.fid = f.fid
), queued AS (
    -- a row that is being worked on with the old class becomes due again
    INSERT INTO file_to_replicate (fid, nexttry) SELECT fid, 0 FROM f WHERE differs AND placed ON CONFLICT (fid) DO UPDATE SET nexttry = 0
)
SELECT n, placed FROM f;

-- name: list_keys
-- $1 dmid, $2 after (exclusive), $3 prefix, $4 end of prefix or NULL, $5 limit: a page of keys in byte order.
SELECT dkey FROM file
WHERE dmid = $1 AND dkey COLLATE "C" > $2::text AND dkey COLLATE "C" >= $3::text
  AND ($4::text IS NULL OR dkey COLLATE "C" < $4::text)
ORDER BY dkey COLLATE "C" LIMIT $5;

-- name: list_fids
-- $1 after fid, $2 limit: files in fid order.
SELECT fid, dmid, dkey, length, classid, devcount FROM file WHERE fid > $1 ORDER BY fid LIMIT $2;

-- name: debug_file
-- $1 fid.
SELECT fid, dmid, dkey, length, classid, devcount FROM file WHERE fid = $1;

-- name: debug_tempfile
-- $1 fid.
SELECT fid, createtime, classid, dmid, dkey, devids FROM tempfile WHERE fid = $1;

-- name: debug_replqueue
-- $1 fid.
SELECT fid, nexttry, fromdevid, failcount, flags FROM file_to_replicate WHERE fid = $1;

-- name: debug_delqueue
-- $1 fid.
SELECT fid, nexttry, failcount FROM file_to_delete2 WHERE fid = $1;

-- name: debug_queue
-- $1 fid, $2 type (1 fsck, 2 rebalance).
SELECT fid, devid, type, nexttry, failcount, flags, arg FROM file_to_queue WHERE fid = $1 AND type = $2;

-- name: debug_devices
-- $1 fid.
SELECT devid FROM file_on WHERE fid = $1 ORDER BY devid;
