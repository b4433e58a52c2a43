-- name: acquire
-- $1 names, $2 owner, $3 token, $4 seconds: take the leases nobody holds; returns the names obtained.
INSERT INTO mogile_lease AS l (what, owner, token, until)
SELECT what, $2::text, $3::uuid, clock_timestamp() + make_interval(secs => $4::float8)
FROM unnest($1::text[]) AS what ORDER BY what
ON CONFLICT (what) DO UPDATE SET owner = excluded.owner, token = excluded.token, until = excluded.until
WHERE l.until < clock_timestamp()
RETURNING what;

-- name: renew
-- $1 token, $2 seconds: the heartbeat; a lease that has run out is not revived.
UPDATE mogile_lease SET until = clock_timestamp() + make_interval(secs => $2::float8)
WHERE token = $1::uuid AND until > clock_timestamp();

-- name: fence
-- $1 token, $2 names: lock the lease rows that are still ours until this transaction ends; a late owner gets none.
SELECT what FROM mogile_lease
WHERE token = $1::uuid AND what = ANY($2::text[]) AND until > clock_timestamp()
ORDER BY what FOR UPDATE;

-- name: release
-- $1 token: give back everything taken under it.
DELETE FROM mogile_lease WHERE token = $1::uuid;

-- name: sweep
-- $1 limit: drop leases that ran out long ago (their owner died).
DELETE FROM mogile_lease WHERE what IN (
    SELECT what FROM mogile_lease WHERE until < clock_timestamp() - interval '60 seconds'
    LIMIT $1::int FOR UPDATE SKIP LOCKED);
