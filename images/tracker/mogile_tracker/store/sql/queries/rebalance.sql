-- name: settings
-- The settings of rebalancing and of the queue limits.
SELECT field, coalesce(value, '') AS value FROM server_settings
WHERE field IN ('rebal_policy', 'rebal_state', 'rebal_host', 'rebal_signal', 'fsck_host', 'queue_rate_for_rebal', 'queue_size_for_rebal');

-- name: lock
-- One change of the rebalance settings at a time.
SELECT pg_advisory_xact_lock(hashtextextended('mogile:rebalance', 0));

-- name: set
-- $1 field, $2 value.
INSERT INTO server_settings (field, value) VALUES ($1::text, $2::text) ON CONFLICT (field) DO UPDATE SET value = excluded.value;

-- name: unset
-- $1 fields.
DELETE FROM server_settings WHERE field = ANY($1::text[]);

-- name: files_ascending
-- $1 devid, $2 after fid, $3 limit: files on a device, oldest first; length is NULL where only the location is left.
SELECT o.fid, f.length
FROM (SELECT fid FROM file_on WHERE devid = $1::smallint AND fid > $2::bigint ORDER BY fid LIMIT $3::int) AS o
LEFT JOIN file f ON f.fid = o.fid ORDER BY o.fid;

-- name: files_descending
-- $1 devid, $2 before fid (0: from the newest), $3 limit: files on a device, newest first.
SELECT o.fid, f.length
FROM (SELECT fid FROM file_on WHERE devid = $1::smallint AND ($2::bigint = 0 OR fid < $2::bigint)
      ORDER BY fid DESC LIMIT $3::int) AS o
LEFT JOIN file f ON f.fid = o.fid ORDER BY o.fid DESC;

-- name: queued
-- $1 most rows counted: moves that wait.
SELECT count(*) FROM (SELECT 1 FROM file_to_queue WHERE type = 2 LIMIT $1::int) q;

-- name: set_draining
-- $1 devid: an alive device becomes drain; other states are the operator's and stay.
UPDATE device SET status = 'drain' WHERE devid = $1::smallint AND status = 'alive';
