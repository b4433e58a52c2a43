-- name: lock_keys
-- $1 names, $2 lane, $3 batch: lock the names in sorted order until the end of the transaction, and leave the mark that proves its commit.
WITH mark AS (
    INSERT INTO mogile_commit (lane, batch) VALUES ($2::uuid, $3::bigint)
    ON CONFLICT (lane) DO UPDATE SET batch = excluded.batch, at = excluded.at
)
SELECT count(pg_advisory_xact_lock(h))
FROM (SELECT DISTINCT hashtextextended(name, 17) AS h FROM unnest($1::text[]) AS name ORDER BY 1) AS sorted;

-- name: mark
-- $1 lane, $2 batch: the mark alone.
INSERT INTO mogile_commit (lane, batch) VALUES ($1::uuid, $2::bigint)
ON CONFLICT (lane) DO UPDATE SET batch = excluded.batch, at = excluded.at;

-- name: settle
-- $1 lane, $2 batch: waits until the lane's lost transaction has ended, if it has left its mark, and takes its place if it has not: a mark
-- that comes later finds a higher number, and undoes what came with it. `batch` is $2 when that committed, and `outcome` what it gave.
INSERT INTO mogile_commit AS m (lane, batch) VALUES ($1::uuid, $2::bigint + 1)
ON CONFLICT (lane) DO UPDATE SET at = excluded.at, batch = CASE WHEN m.batch < $2::bigint THEN excluded.batch ELSE m.batch END
RETURNING m.batch, m.outcome;

-- name: sweep_commits
-- $1 limit: marks of connections that are long gone.
DELETE FROM mogile_commit WHERE lane IN (
    SELECT lane FROM mogile_commit WHERE at < now() - interval '1 day' LIMIT $1::int FOR UPDATE SKIP LOCKED);
