-- What mogstats asks the database. Read only; each statement stands alone. Grouping happens in the database, so an answer has few rows.

-- name: classes
-- Names of all domains and classes; class 0 is `default` and may have no row.
SELECT d.dmid, d.namespace, c.classid, c.classname FROM domain d LEFT JOIN class c ON c.dmid = d.dmid;

-- name: devices
-- Copies per device; a device without any is not listed (as in the original), one without a row or host has no name.
SELECT f.devid, h.hostname, d.status, f.files
FROM (SELECT devid, count(*) AS files FROM file_on GROUP BY devid) f
LEFT JOIN device d ON d.devid = f.devid
LEFT JOIN host h ON h.hostid = d.hostid
ORDER BY f.devid;

-- name: fids
-- The greatest fid that has a key.
SELECT max(fid) FROM file;

-- name: files
-- Files and bytes per domain and class, counted once and with all copies.
SELECT dmid, classid, count(*), sum(length)::bigint, sum(length::numeric * devcount)::bigint FROM file GROUP BY dmid, classid;

-- name: domains
-- Files per domain and class.
SELECT dmid, classid, count(*) FROM file GROUP BY dmid, classid;

-- name: replication
-- Files per domain, class and number of copies.
SELECT dmid, classid, devcount, count(*) FROM file GROUP BY dmid, classid, devcount;

-- name: replication-queue
-- nexttry: 0 new file, 1 redo, 2147483647 never, else when (database clock).
SELECT CASE
    WHEN nexttry = 0 THEN 'newfile'
    WHEN nexttry = 1 THEN 'redo'
    WHEN nexttry < 1000 THEN 'unknown'
    WHEN nexttry = 2147483647 THEN 'manual'
    WHEN nexttry < extract(epoch FROM now()) THEN 'overdue'
    ELSE 'deferred'
END AS status, count(*) FROM file_to_replicate GROUP BY 1 ORDER BY 1;

-- name: delete-queue
SELECT CASE
    WHEN nexttry = 0 THEN 'new'
    WHEN nexttry = 1 THEN 'redo'
    WHEN nexttry < 1000 THEN 'unknown'
    WHEN nexttry = 2147483647 THEN 'manual'
    WHEN nexttry < extract(epoch FROM now()) THEN 'overdue'
    ELSE 'deferred'
END AS status, count(*) FROM file_to_delete2 GROUP BY 1 ORDER BY 1;

-- name: general-queues
-- type 1 is fsck, 2 rebalance.
SELECT CASE type WHEN 1 THEN 'FSCK_QUEUE' WHEN 2 THEN 'REBAL_QUEUE' ELSE 'UNKNOWN_QUEUE' END AS queue, CASE
    WHEN nexttry = 0 THEN 'new'
    WHEN nexttry = 1 THEN 'redo'
    WHEN nexttry < 1000 THEN 'unknown'
    WHEN nexttry = 2147483647 THEN 'manual'
    WHEN nexttry < extract(epoch FROM now()) THEN 'overdue'
    ELSE 'deferred'
END AS status, count(*) FROM file_to_queue GROUP BY 1, 2 ORDER BY 1, 2;
