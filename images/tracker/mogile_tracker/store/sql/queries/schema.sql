-- name: lock_migrations
-- One tracker at a time changes the schema.
SELECT pg_advisory_xact_lock(hashtextextended('mogile:migrations', 0));

-- name: lock_index
-- One builder of the byte order index at a time: held by a transaction that does nothing else, so it ends with its process.
SELECT pg_advisory_xact_lock(hashtextextended('mogile:index', 0));

-- name: basics
-- What the server and the database are.
SELECT current_setting('server_encoding') AS encoding, current_setting('server_version_num')::int AS version, current_setting('fsync')::bool AS fsync;

-- name: table_exists
-- $1 table name: is it there?
SELECT to_regclass($1::text) IS NOT NULL;

-- name: columns
-- Columns of the tables that are found without naming a schema.
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace
  AND a.attnum > 0 AND NOT a.attisdropped;

-- name: indexes
-- Names of indexes that are found without naming a schema.
SELECT relname AS name FROM pg_class WHERE relkind IN ('i', 'I') AND pg_table_is_visible(oid) AND relnamespace <> 'pg_catalog'::regnamespace;

-- name: not_owned
-- $1 table names: those this user may not alter.
SELECT c.relname AS name FROM pg_class c
WHERE c.relname = ANY ($1::text[]) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY 1;

-- name: schema_version
-- MogileFS's schema version, NULL when it was never written.
SELECT value FROM server_settings WHERE field = 'schema_version';

-- name: set_schema_version
-- $1 version: written when missing.
INSERT INTO server_settings (field, value) VALUES ('schema_version', $1) ON CONFLICT (field) DO NOTHING;

-- name: applied
-- Names of applied migrations.
SELECT name FROM mogile_migration;

-- name: mark_applied
-- $1 name: remember a migration.
INSERT INTO mogile_migration (name) VALUES ($1) ON CONFLICT (name) DO NOTHING;

-- name: new_cluster_setting
-- $1 name, $2 value: what a cluster that begins with us has and an adopted one has not.
INSERT INTO mogile_setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: has_cluster
-- Has the cluster its identity?
SELECT EXISTS (SELECT 1 FROM mogile_cluster);

-- name: make_cluster
-- The cluster gets its identity once.
INSERT INTO mogile_cluster (id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING;

-- name: fids
-- The highest fid in use (two index look-ups).
SELECT greatest((SELECT max(fid) FROM file), (SELECT max(fid) FROM tempfile)) AS highest;

-- name: fid_sequence
-- $1 name: type of the sequence that gives fids and the last one it gave.
SELECT format_type(s.seqtypid, NULL) AS type,
       CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.seqrelid) END AS last
FROM pg_sequence s WHERE s.seqrelid = to_regclass($1::text);

-- name: catch_up_fids
-- $1 sequence, $2 fid: the sequence goes on after that fid.
SELECT setval($1::text::regclass, $2::bigint);

-- name: needs_byte_order_index
-- Keys of an adopted database are not ordered as bytes: list_keys needs an index of its own.
SELECT (SELECT collname <> 'C' FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
        WHERE a.attrelid = 'file'::regclass AND a.attname = 'dkey')
   AND NOT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                   WHERE i.indrelid = 'file'::regclass AND c.relname = 'mogile_file_dkey_bytes' AND i.indisvalid);

-- name: index_building
-- Is a server process (perhaps of a program that is gone) building or dropping an index on file in this moment, and how far is it?
-- Without the right to look at another user's process the table is hidden: any build in this database counts then.
SELECT p.pid, p.phase, p.blocks_done, p.blocks_total FROM pg_stat_progress_create_index p
WHERE p.datname = current_database() AND (p.relid = 'file'::regclass OR p.relid IS NULL);

-- name: index_left_over
-- Is there an index of that name that was never finished?
SELECT EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('mogile_file_dkey_bytes') AND NOT indisvalid);

-- name: drop_byte_order_index
-- An unfinished index is of no use and costs writes; after a hand-over the finished one too.
DROP INDEX CONCURRENTLY IF EXISTS mogile_file_dkey_bytes;

-- name: byte_order_index
-- Built while the cluster works.
CREATE INDEX CONCURRENTLY IF NOT EXISTS mogile_file_dkey_bytes ON file (dmid, dkey COLLATE "C");

-- name: upstream_jobs
-- Server processes that hold a named lock of MogileFS's (two 32-bit words): only its job workers take those.
SELECT DISTINCT l.pid, coalesce(host(a.client_addr), 'this machine') AS client
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: blocking_users
-- Who else is in a transaction on this database, the longest first: named when a table cannot be locked.
SELECT pid, coalesce(nullif(application_name, ''), 'without a name') AS name, coalesce(host(client_addr), 'this machine') AS client,
       extract(epoch FROM clock_timestamp() - xact_start)::int AS seconds
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1;
