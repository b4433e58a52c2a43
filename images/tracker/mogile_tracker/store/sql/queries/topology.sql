-- name: cluster_id
-- Who this cluster is.
SELECT id FROM mogile_cluster;

-- name: hosts
-- All hosts with their zones.
SELECT h.hostid, h.hostname, coalesce(h.status, 'down') AS status, coalesce(h.hostip, '') AS hostip,
       coalesce(h.http_port, 7500) AS http_port, h.http_get_port, h.altip, h.altmask, z.zone
FROM host h LEFT JOIN mogile_host z USING (hostid);

-- name: devices
-- All devices; out: a state of ours.
SELECT d.devid, d.hostid, coalesce(d.status, 'down') AS status, coalesce(d.weight, 100) AS weight, d.mb_total, d.mb_used, d.mb_asof,
       coalesce(m.out_since IS NOT NULL, false) AS out
FROM device d LEFT JOIN mogile_device m USING (devid);

-- name: domains
-- All domains.
SELECT dmid, namespace FROM domain;

-- name: classes
-- All classes that have a row.
SELECT dmid, classid, classname, mindevcount, hashtype, replpolicy FROM class;

-- name: write_rules
-- How uploads of classes are acknowledged.
SELECT dmid, classid, write_copies, degraded_writes FROM mogile_class;

-- name: our_settings
-- Settings of ours.
SELECT name, value FROM mogile_setting;

-- name: settings
-- Cluster-wide settings of MogileFS.
SELECT field, coalesce(value, '') AS value FROM server_settings;
