-- name: walks
-- All walks over the disks, with how many orphans are listed and how many of those wait to be removed or adopted.
SELECT w.devid, w.last_fid, w.min_age, w.files, w.orphans, w.missing, w.state, w.problem, w.started, w.ended,
       (SELECT count(*) FROM mogile_orphan o WHERE o.devid = w.devid) AS listed,
       (SELECT count(*) FROM mogile_orphan o WHERE o.devid = w.devid AND o.todo IS NOT NULL) AS pending
FROM mogile_orphan_walk w ORDER BY w.devid;

-- name: forget_listed
-- $1 devids: what an earlier walk listed.
DELETE FROM mogile_orphan WHERE devid = ANY($1::smallint[]);

-- name: start
-- $1 devids, $2 age in seconds: begin (again) at the first fid.
INSERT INTO mogile_orphan_walk AS w (devid, min_age, started)
SELECT devid, $2::int, extract(epoch FROM clock_timestamp())::int FROM unnest($1::smallint[]) AS devid ORDER BY devid
ON CONFLICT (devid) DO UPDATE SET min_age = excluded.min_age, started = excluded.started, last_fid = 0, files = 0, orphans = 0,
    missing = 0, state = 'running', problem = '', ended = NULL;

-- name: stop
-- $1 devids: leave walks where they are; what they listed stays.
UPDATE mogile_orphan_walk SET state = 'stopped', ended = extract(epoch FROM clock_timestamp())::int
WHERE devid = ANY($1::smallint[]) AND state = 'running';

-- name: unknown
-- $1 devid, $2 fids that lie on it: those that no row accounts for (no location, upload, copy being made or deleted, file being deleted),
-- with the length of the file where there is one by that fid.
SELECT q.fid, f.fid IS NOT NULL AS is_file, f.length
FROM unnest($2::bigint[]) AS q(fid) LEFT JOIN file f ON f.fid = q.fid
WHERE NOT EXISTS (SELECT 1 FROM file_on o WHERE o.fid = q.fid AND o.devid = $1::smallint)
  AND NOT EXISTS (SELECT 1 FROM tempfile t WHERE t.fid = q.fid)
  AND NOT EXISTS (SELECT 1 FROM mogile_copy_intent i WHERE i.fid = q.fid AND i.devid = $1::smallint)
  AND NOT EXISTS (SELECT 1 FROM mogile_copy_delete d WHERE d.fid = q.fid AND d.devid = $1::smallint)
  AND NOT EXISTS (SELECT 1 FROM file_to_delete2 x WHERE x.fid = q.fid)
  AND NOT EXISTS (SELECT 1 FROM file_to_delete x WHERE x.fid = q.fid)
  AND NOT EXISTS (SELECT 1 FROM file_to_delete_later x WHERE x.fid = q.fid);

-- name: not_there
-- $1 devid, $2 after fid, $3 last fid, $4 fids that lie there, $5 limit: files that should have a copy in this part of the device and
-- have none.
SELECT o.fid FROM file_on o JOIN file f ON f.fid = o.fid
WHERE o.devid = $1::smallint AND o.fid > $2::bigint AND o.fid <= $3::bigint
  AND NOT EXISTS (SELECT 1 FROM unnest($4::bigint[]) AS there(fid) WHERE there.fid = o.fid)
ORDER BY o.fid LIMIT $5::int;

-- name: list
-- $1 devid, $2 fids, $3 lengths, $4 times, $5 whether there is a file by that fid, $6 most listed on a device: new ones are returned.
INSERT INTO mogile_orphan (devid, fid, length, mtime, is_file)
SELECT $1::smallint, n.fid, n.length, n.mtime, n.is_file
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[]) AS n(fid, length, mtime, is_file)
ORDER BY n.fid
LIMIT greatest(0, $6::int - (SELECT count(*) FROM mogile_orphan WHERE devid = $1::smallint))
ON CONFLICT (devid, fid) DO NOTHING
RETURNING fid;

-- name: advance
-- $1 devid, $2 fid it was at, $3 last fid, $4 files, $5 orphans, $6 missing, $7 finished, $8 problem. Nothing when it was begun anew.
UPDATE mogile_orphan_walk
SET last_fid = $3::bigint, files = files + $4::bigint, orphans = orphans + $5::bigint, missing = missing + $6::bigint, problem = $8::text,
    state = CASE WHEN $7::boolean THEN 'finished' ELSE state END,
    ended = CASE WHEN $7::boolean THEN extract(epoch FROM clock_timestamp())::int ELSE ended END
WHERE devid = $1::smallint AND last_fid = $2::bigint AND state = 'running';

-- name: page
-- $1 devid or NULL, $2 after devid, $3 after fid, $4 limit: listed orphans in order.
SELECT devid, fid, length, mtime, is_file, todo FROM mogile_orphan
WHERE ($1::smallint IS NULL OR devid = $1::smallint) AND (devid, fid) > ($2::smallint, $3::bigint)
ORDER BY devid, fid LIMIT $4::int;

-- name: order
-- $1 devid or NULL, $2 todo: what shall be done about listed orphans.
UPDATE mogile_orphan SET todo = $2::text WHERE ($1::smallint IS NULL OR devid = $1::smallint);

-- name: ordered
-- $1 limit, $2 devids that answer: orphans that something shall be done about.
SELECT devid, fid, length, mtime, is_file, todo FROM mogile_orphan
WHERE todo IS NOT NULL AND devid = ANY($2::smallint[]) ORDER BY devid, fid LIMIT $1::int;

-- name: settle
-- $1 devids, $2 fids, $3 todo left: they leave the list, or stay in it without an order.
WITH done AS (SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::boolean[]) AS n(devid, fid, kept)),
kept AS (UPDATE mogile_orphan o SET todo = NULL FROM done n WHERE n.kept AND o.devid = n.devid AND o.fid = n.fid)
DELETE FROM mogile_orphan o USING done n WHERE NOT n.kept AND o.devid = n.devid AND o.fid = n.fid;

-- name: remove
-- $1 fids, $2 devids, $3 copy ids: orphans become copy deletes. After the fence and lock_files, in their transaction, so that no job of ours
-- is about to give them a row.
INSERT INTO mogile_copy_delete (fid, devid, copy_id, nexttry)
SELECT n.fid, n.devid, n.copy_id, extract(epoch FROM clock_timestamp())::int
FROM unnest($1::bigint[], $2::smallint[], $3::text[]) AS n(fid, devid, copy_id)
WHERE NOT EXISTS (SELECT 1 FROM file_on o WHERE o.fid = n.fid AND o.devid = n.devid)
  AND NOT EXISTS (SELECT 1 FROM tempfile t WHERE t.fid = n.fid)
  AND NOT EXISTS (SELECT 1 FROM mogile_copy_intent i WHERE i.fid = n.fid AND i.devid = n.devid)
ON CONFLICT (fid, devid) DO NOTHING
RETURNING fid, devid;

-- name: forget_device
-- $1 devid.
DELETE FROM mogile_orphan WHERE devid = $1::smallint;

-- name: forget_walk
-- $1 devid.
DELETE FROM mogile_orphan_walk WHERE devid = $1::smallint;
