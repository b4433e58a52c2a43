-- name: make_rows
-- $1 names: what is limited for the first time owes nothing.
INSERT INTO mogile_pace (name) SELECT name FROM unnest($1::text[]) AS name ORDER BY name ON CONFLICT (name) DO NOTHING;

-- name: owed
-- $1 names, $2 bytes per second: what is still owed after paying at these rates until now. Locks the rows until the transaction ends.
SELECT p.name, greatest(0, p.owed_bytes - l.rate * extract(epoch FROM clock_timestamp() - p.as_of))::float8 AS owed, l.rate
FROM mogile_pace p JOIN unnest($1::text[], $2::float8[]) AS l(name, rate) ON l.name = p.name ORDER BY p.name FOR UPDATE OF p;

-- name: owe
-- $1 names, $2 bytes: what is owed from now on.
UPDATE mogile_pace p SET owed_bytes = n.owed, as_of = clock_timestamp()
FROM unnest($1::text[], $2::float8[]) AS n(name, owed) WHERE p.name = n.name;
