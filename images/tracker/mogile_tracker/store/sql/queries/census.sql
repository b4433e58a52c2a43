-- name: patterns
-- $1 after fid, $2 limit: files grouped by class and the devices that hold them; the last fid tells where to go on. The subselect is one
-- index look-up per file whatever the planner believes: as a join it read the whole of file_on.
SELECT dmid, classid, holders, count(*) AS files, sum(length)::bigint AS bytes, max(fid) AS last_fid
FROM (SELECT f.fid, f.dmid, f.classid, coalesce(f.length, 0) AS length,
             ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = f.fid ORDER BY o.devid) AS holders
      FROM (SELECT fid, dmid, classid, length FROM file WHERE fid > $1::bigint ORDER BY fid LIMIT $2::int) AS f
      OFFSET 0) AS placed
GROUP BY dmid, classid, holders;

-- name: rows
-- $1 after fid, $2 limit: the same, file by file, for the pass that also queues what is lacking.
SELECT f.fid, f.dmid, f.classid, coalesce(f.length, 0) AS length,
       ARRAY(SELECT o.devid FROM file_on o WHERE o.fid = f.fid ORDER BY o.devid) AS holders
FROM (SELECT fid, dmid, classid, length FROM file WHERE fid > $1::bigint ORDER BY fid LIMIT $2::int) AS f;

-- name: load
-- $1 which: a stored census.
SELECT last_fid, totals FROM mogile_census WHERE which = $1::text;

-- name: ended_at
-- $1 which: when a stored census was written.
SELECT extract(epoch FROM counted_at)::float8 FROM mogile_census WHERE which = $1::text;

-- name: counted
-- Both censuses, the finished one and the one under way: two rows whatever the number of files.
SELECT which, totals, extract(epoch FROM counted_at)::bigint AS counted_at FROM mogile_census;

-- name: save
-- $1 which, $2 last fid, $3 totals.
INSERT INTO mogile_census (which, last_fid, totals) VALUES ($1::text, $2::bigint, $3::jsonb)
ON CONFLICT (which) DO UPDATE SET last_fid = excluded.last_fid, totals = excluded.totals, counted_at = now();

-- name: balance
-- What the automatic balancer has done and last saw.
SELECT moved_fids, moved_bytes, spread_percent, evaluated_at FROM mogile_balance;

-- name: note_spread
-- $1 percent points: the spread the balancer found.
INSERT INTO mogile_balance (spread_percent, evaluated_at) VALUES ($1::real, now())
ON CONFLICT (only_row) DO UPDATE SET spread_percent = excluded.spread_percent, evaluated_at = excluded.evaluated_at;

-- name: note_moved
-- $1 fids, $2 bytes: moves carried out.
INSERT INTO mogile_balance (moved_fids, moved_bytes) VALUES ($1::bigint, $2::bigint)
ON CONFLICT (only_row) DO UPDATE
SET moved_fids = mogile_balance.moved_fids + excluded.moved_fids, moved_bytes = mogile_balance.moved_bytes + excluded.moved_bytes;

-- name: sample
-- $1 devid, $2 after fid, $3 limit: files on a device with all their locations, in fid order from a given place.
SELECT o.fid, f.dmid, f.classid, coalesce(f.length, 0) AS length,
       ARRAY(SELECT p.devid FROM file_on p WHERE p.fid = o.fid ORDER BY p.devid) AS holders
FROM (SELECT fid FROM file_on WHERE devid = $1::smallint AND fid > $2::bigint ORDER BY fid LIMIT $3::int) AS o
JOIN file f ON f.fid = o.fid
WHERE NOT EXISTS (SELECT 1 FROM file_to_queue q WHERE q.fid = o.fid AND q.type = 2);
