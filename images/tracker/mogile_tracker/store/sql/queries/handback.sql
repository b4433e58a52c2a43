-- name: trackers
-- Connections of our trackers to this database, this one aside.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'mogile-tracker' AND pid <> pg_backend_pid();

-- name: pending
-- Work that only our trackers know how to finish.
SELECT (SELECT count(*) FROM mogile_copy_delete WHERE NOT deleted) AS copy_deletes, (SELECT count(*) FROM mogile_copy_intent) AS copy_intents;

-- name: out_devices
-- Devices in our state `out`, which MogileFS would count as holding copies.
SELECT devid FROM mogile_device WHERE out_since IS NOT NULL ORDER BY devid;

-- name: foreign_hosts
-- Hosts whose names or addresses MogileFS cannot use: it knows IPv4 and columns of 15 (18, 40) characters.
SELECT hostname FROM host
WHERE hostip !~ '^\d+\.\d+\.\d+\.\d+$' OR altip !~ '^\d+\.\d+\.\d+\.\d+$' OR length(altmask) > 18 OR length(hostname) > 40 ORDER BY 1;

-- name: foreign_policies
-- Classes with a policy MogileFS has in an add-on or not at all.
SELECT d.namespace, c.classname, c.replpolicy FROM class c JOIN domain d USING (dmid)
WHERE c.replpolicy ~ '(Union|MultipleNetworks|HostsPerNetwork)' ORDER BY 1, 2;

-- name: null_keys
-- Keys with a NUL byte, which MogileFS cuts off there; reads all of table file, counts no further than 1000.
SELECT count(*) FROM (SELECT FROM file WHERE position(chr(256) IN dkey) > 0 LIMIT 1000) AS few;

-- name: wide_keys
-- Keys with characters that stand for no byte (written by something that was not MogileFS on PostgreSQL); counts no further than 1000.
SELECT count(*) FROM (SELECT FROM file WHERE dkey COLLATE "C" ~ E'[^\u0001-\u0100]' LIMIT 1000) AS few;

-- name: forget_own_moves
-- Moves our balancer wished for; MogileFS would take them for a rebalance somebody asked for.
DELETE FROM file_to_queue WHERE type = 2 AND flags = 1;

-- name: forget_owners
-- Who was running fsck and rebalance: trackers that will not come back.
DELETE FROM server_settings WHERE field IN ('fsck_host', 'rebal_host', 'rebal_signal');

-- name: forget_work
-- What our jobs remember of work under way.
WITH a AS (DELETE FROM mogile_lease), b AS (DELETE FROM mogile_copy_delete), c AS (DELETE FROM mogile_device_walk)
DELETE FROM mogile_census;
