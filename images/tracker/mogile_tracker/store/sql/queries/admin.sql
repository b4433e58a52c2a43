-- name: lock_topology
-- One change of hosts, devices, domains or classes at a time, over all trackers.
SELECT pg_advisory_xact_lock(hashtextextended('mogile:topology', 0));

-- name: domain_id
-- $1 name.
SELECT dmid FROM domain WHERE namespace = $1;

-- name: insert_domain
-- $1 name.
INSERT INTO domain (dmid, namespace) SELECT coalesce(max(dmid), 0) + 1, $1 FROM domain;

-- name: domain_has_files
-- $1 dmid.
SELECT EXISTS (SELECT 1 FROM file WHERE dmid = $1);

-- name: domain_has_classes
-- $1 dmid: classes other than default.
SELECT EXISTS (SELECT 1 FROM class WHERE dmid = $1 AND classid <> 0);

-- name: delete_classes
-- $1 dmid.
WITH rules AS (DELETE FROM mogile_class WHERE dmid = $1)
DELETE FROM class WHERE dmid = $1;

-- name: delete_domain
-- $1 dmid.
DELETE FROM domain WHERE dmid = $1;

-- name: class_row
-- $1 dmid, $2 name.
SELECT classid FROM class WHERE dmid = $1 AND classname = $2;

-- name: insert_class
-- $1 dmid, $2 class id or NULL for the next, $3 name, $4 mindevcount, $5 hashtype, $6 policy.
INSERT INTO class (dmid, classid, classname, mindevcount, hashtype, replpolicy)
SELECT $1::smallint, coalesce($2::smallint, (SELECT coalesce(max(classid), 0) + 1 FROM class WHERE dmid = $1)), $3, $4, $5, $6;

-- name: update_class
-- $1 dmid, $2 class id, $3 mindevcount, $4 policy or NULL to keep, $5 hashtype or NULL to keep, $6 true to clear the hashtype.
UPDATE class SET mindevcount = $3, replpolicy = coalesce($4, replpolicy),
    hashtype = CASE WHEN $6::boolean THEN NULL ELSE coalesce($5::smallint, hashtype) END
WHERE dmid = $1 AND classid = $2;

-- name: class_has_files
-- $1 dmid, $2 class id.
SELECT EXISTS (SELECT 1 FROM file WHERE dmid = $1 AND classid = $2);

-- name: delete_class
-- $1 dmid, $2 class id.
WITH rule AS (DELETE FROM mogile_class WHERE dmid = $1 AND classid = $2)
DELETE FROM class WHERE dmid = $1 AND classid = $2;

-- name: host_id
-- $1 name.
SELECT hostid FROM host WHERE hostname = $1;

-- name: address_taken
-- $1 host id to leave out, $2 address or NULL, $3 alternate address or NULL: does another host have one of them?
SELECT EXISTS (SELECT 1 FROM host WHERE hostid <> $1 AND (hostip = $2::text OR altip = $3::text));

-- name: insert_host
-- $1 name, $2 status, $3 address, $4 port, $5 get port, $6 alternate address, $7 mask: answers with the new id.
INSERT INTO host (hostid, hostname, status, hostip, http_port, http_get_port, altip, altmask)
SELECT coalesce(max(hostid), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM host
RETURNING hostid;

-- name: update_host
-- $1 id, then as above; NULL keeps, empty text clears altip and altmask, 0 clears the get port.
UPDATE host SET status = coalesce($2, status), hostip = coalesce($3, hostip), http_port = coalesce($4, http_port),
    http_get_port = CASE WHEN $5::int IS NULL THEN http_get_port ELSE nullif($5, 0) END,
    altip = CASE WHEN $6::text IS NULL THEN altip ELSE nullif($6, '') END,
    altmask = CASE WHEN $7::text IS NULL THEN altmask ELSE nullif($7, '') END
WHERE hostid = $1;

-- name: host_has_devices
-- $1 host id: dead devices count too.
SELECT EXISTS (SELECT 1 FROM device WHERE hostid = $1);

-- name: delete_host
-- $1 host id.
DELETE FROM host WHERE hostid = $1;

-- name: delete_host_zone
-- $1 host id.
DELETE FROM mogile_host WHERE hostid = $1;

-- name: set_zone
-- $1 host id, $2 zone or NULL.
INSERT INTO mogile_host (hostid, zone) VALUES ($1, $2) ON CONFLICT (hostid) DO UPDATE SET zone = excluded.zone;

-- name: device_exists
-- $1 devid.
SELECT EXISTS (SELECT 1 FROM device WHERE devid = $1);

-- name: insert_device
-- $1 devid, $2 host id, $3 status.
INSERT INTO device (devid, hostid, status) VALUES ($1, $2, $3);

-- name: device_state
-- $1 devid.
SELECT status FROM device WHERE devid = $1 FOR UPDATE;

-- name: set_device_state
-- $1 devid, $2 status.
UPDATE device SET status = $2 WHERE devid = $1;

-- name: set_weight
-- $1 devid, $2 weight.
UPDATE device SET weight = $2 WHERE devid = $1;

-- name: set_out
-- $1 devid, $2 out.
INSERT INTO mogile_device (devid, out_since) VALUES ($1, CASE WHEN $2::boolean THEN extract(epoch FROM now())::bigint END)
ON CONFLICT (devid) DO UPDATE SET out_since = CASE WHEN $2::boolean THEN coalesce(mogile_device.out_since, excluded.out_since) END;

-- name: device_has_files
-- $1 devid.
SELECT EXISTS (SELECT 1 FROM file_on WHERE devid = $1);

-- name: forget_copy_deletes
-- $1 devid: bytes of a dead device need no deleting.
DELETE FROM mogile_copy_delete WHERE devid = $1;

-- name: forget_out
-- $1 devid.
DELETE FROM mogile_device WHERE devid = $1;

-- name: delete_device
-- $1 devid.
DELETE FROM device WHERE devid = $1;

-- name: set_setting
-- $1 field, $2 value.
INSERT INTO server_settings (field, value) VALUES ($1, $2) ON CONFLICT (field) DO UPDATE SET value = excluded.value;

-- name: delete_setting
-- $1 field.
DELETE FROM server_settings WHERE field = $1;

-- name: replicate_now
-- Postponed rows become due.
UPDATE file_to_replicate SET nexttry = extract(epoch FROM now())::int WHERE nexttry > extract(epoch FROM now())::int;

-- name: files_per_device
-- $1 limit: copies per device, counted no further than that.
SELECT d.devid, n.files FROM device d
CROSS JOIN LATERAL (SELECT count(*) AS files FROM (SELECT 1 FROM file_on o WHERE o.devid = d.devid LIMIT $1::int) AS few) AS n;

-- name: set_our_setting
-- $1 name, $2 value: a setting of ours.
INSERT INTO mogile_setting (name, value) VALUES ($1::text, $2::text) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: unset_our_setting
-- $1 name: back to its default.
DELETE FROM mogile_setting WHERE name = $1::text;

-- name: set_write_rule
-- $1 dmid, $2 classid, $3 copies, $4 degraded writes allowed.
INSERT INTO mogile_class (dmid, classid, write_copies, degraded_writes)
VALUES ($1::smallint, $2::smallint, $3::smallint, $4::boolean)
ON CONFLICT (dmid, classid) DO UPDATE SET write_copies = excluded.write_copies, degraded_writes = excluded.degraded_writes;
