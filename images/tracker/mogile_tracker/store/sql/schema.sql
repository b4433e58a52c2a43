-- The whole schema: MogileFS's tables (schema_version 17, PostgreSQL) and ours (mogile_*).
-- Run on an empty database and on an adopted one alike: what exists is left as it is (adopt.sql widens it afterwards).
-- Times in MogileFS's tables are int4 unix seconds of the database clock. No foreign keys, as in the original: rows of one fid are
-- written by different programs in different orders.

-- ===== MogileFS, schema_version 17

-- Namespaces of keys.
CREATE TABLE IF NOT EXISTS domain (
    dmid smallint PRIMARY KEY,
    namespace varchar(255) NOT NULL UNIQUE
);

-- Replication settings per domain; class 0 is `default` and needs no row. hashtype: 1 MD5, 2 SHA-1.
CREATE TABLE IF NOT EXISTS class (
    dmid smallint NOT NULL,
    classid smallint NOT NULL,
    classname varchar(50) NOT NULL,
    mindevcount smallint NOT NULL,
    hashtype smallint,
    replpolicy varchar(255),
    PRIMARY KEY (dmid, classid),
    UNIQUE (dmid, classname)
);

-- One row per stored file. dkey holds the key's bytes as Latin-1 characters, ordered as bytes.
CREATE TABLE IF NOT EXISTS file (
    fid bigint PRIMARY KEY,
    dmid smallint NOT NULL,
    dkey varchar(255) COLLATE "C" NOT NULL,
    length bigint CHECK (length >= 0),
    classid smallint NOT NULL,
    devcount smallint NOT NULL,
    UNIQUE (dmid, dkey)
);
CREATE INDEX IF NOT EXISTS file_devcount ON file (dmid, classid, devcount);

-- Uploads between create_open and create_close; its sequence makes the fids. devids: comma list of the offered devices.
CREATE TABLE IF NOT EXISTS tempfile (
    fid bigserial PRIMARY KEY,
    createtime int NOT NULL,
    classid smallint NOT NULL,
    dmid smallint NOT NULL,
    dkey varchar(255),
    devids varchar(60)
);

-- Where the copies are.
CREATE TABLE IF NOT EXISTS file_on (
    fid bigint NOT NULL,
    devid smallint NOT NULL,
    PRIMARY KEY (fid, devid)
);
CREATE INDEX IF NOT EXISTS file_on_devid ON file_on (devid);

-- Never used by anyone; part of schema 17.
CREATE TABLE IF NOT EXISTS file_on_corrupt (
    fid bigint NOT NULL,
    devid smallint NOT NULL,
    PRIMARY KEY (fid, devid)
);

-- Unused since MogileFS 2.72.
CREATE TABLE IF NOT EXISTS unreachable_fids (
    fid bigint PRIMARY KEY,
    lastupdate int NOT NULL
);
CREATE INDEX IF NOT EXISTS unreachable_fids_lastupdate ON unreachable_fids (lastupdate);

-- Old delete queue, still drained.
CREATE TABLE IF NOT EXISTS file_to_delete (
    fid bigint PRIMARY KEY
);

-- Old delayed deletes, still drained.
CREATE TABLE IF NOT EXISTS file_to_delete_later (
    fid bigint PRIMARY KEY,
    delafter int NOT NULL
);
CREATE INDEX IF NOT EXISTS file_to_delete_later_delafter ON file_to_delete_later (delafter);

-- The delete queue: fids whose copies shall go.
CREATE TABLE IF NOT EXISTS file_to_delete2 (
    fid bigint PRIMARY KEY,
    nexttry int NOT NULL,
    failcount smallint NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS file_to_delete2_nexttry ON file_to_delete2 (nexttry);

-- The replication queue. nexttry: 0 new file, 1 redo, 2147483647 never, else when.
CREATE TABLE IF NOT EXISTS file_to_replicate (
    fid bigint PRIMARY KEY,
    nexttry int NOT NULL,
    fromdevid int,
    failcount smallint NOT NULL DEFAULT 0,
    flags smallint NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS file_to_replicate_nexttry ON file_to_replicate (nexttry);

-- Other work on fids. type: 1 fsck, 2 rebalance.
CREATE TABLE IF NOT EXISTS file_to_queue (
    fid bigint NOT NULL,
    devid int,
    type smallint NOT NULL,
    nexttry int NOT NULL,
    failcount smallint NOT NULL DEFAULT 0,
    flags smallint NOT NULL DEFAULT 0,
    arg text,
    PRIMARY KEY (fid, type)
);
CREATE INDEX IF NOT EXISTS file_to_queue_type_nexttry ON file_to_queue (type, nexttry);

-- What fsck found.
CREATE TABLE IF NOT EXISTS fsck_log (
    logid serial PRIMARY KEY,
    utime int NOT NULL,
    fid bigint,
    evcode char(4),
    devid smallint
);
CREATE INDEX IF NOT EXISTS fsck_log_utime ON fsck_log (utime);

-- Digests of files whose class has a hashtype.
CREATE TABLE IF NOT EXISTS checksum (
    fid bigint PRIMARY KEY,
    hashtype smallint NOT NULL,
    checksum bytea NOT NULL
);

-- Storage nodes. Addresses are text here (IPv6, names); the original has varchar(15).
CREATE TABLE IF NOT EXISTS host (
    hostid smallint PRIMARY KEY,
    status varchar(8) CHECK (status IN ('alive', 'dead', 'down', 'readonly')),
    http_port int DEFAULT 7500,
    http_get_port int,
    hostname varchar(255) UNIQUE,
    hostip text UNIQUE,
    altip text UNIQUE,
    altmask text
);

-- Disks of storage nodes. mb_asof: when mb_total and mb_used were measured.
CREATE TABLE IF NOT EXISTS device (
    devid smallint PRIMARY KEY,
    hostid smallint NOT NULL,
    status varchar(8) CHECK (status IN ('alive', 'dead', 'down', 'readonly', 'drain')),
    weight int DEFAULT 100,
    mb_total int,
    mb_used int,
    mb_asof int
);
CREATE INDEX IF NOT EXISTS device_status ON device (status);

-- Cluster-wide settings of MogileFS; schema_version lives here.
CREATE TABLE IF NOT EXISTS server_settings (
    field varchar(50) PRIMARY KEY,
    value text
);

-- Left over in schema 17, unused.
CREATE TABLE IF NOT EXISTS lock (
    lockid int PRIMARY KEY,
    hostname varchar(255) NOT NULL,
    pid int NOT NULL,
    acquiredat int NOT NULL
);

-- ===== ours

-- Exactly one row: who this cluster is. Nodes are marked with it, so that a reused address never crosses clusters.
CREATE TABLE IF NOT EXISTS mogile_cluster (
    id uuid NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);

-- Zone of a host (a rack, a room, a cloud zone).
CREATE TABLE IF NOT EXISTS mogile_host (
    hostid smallint PRIMARY KEY,
    zone text
);

-- Our own facts about devices. out_since (unix seconds): its copies no longer count, no row is dropped.
CREATE TABLE IF NOT EXISTS mogile_device (
    devid smallint PRIMARY KEY,
    out_since bigint,
    volume_id uuid
);

-- Who works on what until when (database clock). A final transaction checks the token: a late owner changes nothing.
CREATE TABLE IF NOT EXISTS mogile_lease (
    what text PRIMARY KEY,
    owner text NOT NULL,
    token uuid NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS mogile_lease_until ON mogile_lease (until);

-- Copies that shall be deleted from one device; copy_id is sent as If-Match so that a newer copy is never hit. While a row is here the
-- device is no destination for that fid. deleted: the bytes are gone, the row stays until nexttry because a late order without a copy id
-- (to a node that is not ours) could still be under way.
CREATE TABLE IF NOT EXISTS mogile_copy_delete (
    fid bigint NOT NULL,
    devid smallint NOT NULL,
    copy_id text,
    nexttry int NOT NULL,
    failcount smallint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (fid, devid)
);
CREATE INDEX IF NOT EXISTS mogile_copy_delete_nexttry ON mogile_copy_delete (nexttry);

-- Copies that are being made: success turns the row into file_on, anything else into a copy delete.
CREATE TABLE IF NOT EXISTS mogile_copy_intent (
    fid bigint NOT NULL,
    devid smallint NOT NULL,
    until int NOT NULL,
    PRIMARY KEY (fid, devid)
);
CREATE INDEX IF NOT EXISTS mogile_copy_intent_until ON mogile_copy_intent (until);

-- Proof of commit: the number of the last transaction of every connection that makes changes, written in that transaction itself; with
-- what it gave where that cannot have been told before the commit.
-- Updated all the time: room on the page keeps the updates in place.
CREATE TABLE IF NOT EXISTS mogile_commit (
    lane uuid PRIMARY KEY,
    batch bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    outcome bigint[]
) WITH (fillfactor = 10);

-- Settings of ours, apart from MogileFS's so that its tools do not trip over them.
CREATE TABLE IF NOT EXISTS mogile_setting (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- How uploads of a class are acknowledged: with so many copies on different machines; degraded_writes: with fewer where there are no
-- more. A class without a row follows the setting write_copies_default (2 in a cluster that was created by us, else 1).
CREATE TABLE IF NOT EXISTS mogile_class (
    dmid smallint NOT NULL,
    classid smallint NOT NULL,
    write_copies smallint NOT NULL CHECK (write_copies BETWEEN 1 AND 16),
    degraded_writes boolean NOT NULL DEFAULT false,
    PRIMARY KEY (dmid, classid)
);

-- Bandwidth limits shared by all trackers: what each limited job or device still owes, as of when. Paid off at the rate of its limit.
CREATE TABLE IF NOT EXISTS mogile_pace (
    name text PRIMARY KEY,
    owed_bytes double precision NOT NULL DEFAULT 0,
    as_of timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Migrations that have been applied.
CREATE TABLE IF NOT EXISTS mogile_migration (
    name text PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now()
);

-- ----------------------------------------------------------------------------- background jobs (leases, census, ...)

CREATE INDEX IF NOT EXISTS mogile_lease_token ON mogile_lease (token);

-- Walks over all fids of a device that put them into the replication queue, with the place reached: 'out' after the device was set out,
-- 'back' after that was undone (surplus copies are trimmed then).
CREATE TABLE IF NOT EXISTS mogile_device_walk (
    devid smallint PRIMARY KEY,
    why text NOT NULL CHECK (why IN ('out', 'back')),
    last_fid bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    again_at int
);

-- The incremental census: 'running' grows while fids up to last_fid have been counted, 'complete' is the last full pass.
CREATE TABLE IF NOT EXISTS mogile_census (
    which text PRIMARY KEY CHECK (which IN ('running', 'complete')),
    last_fid bigint NOT NULL DEFAULT 0,
    totals jsonb NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now()
);

-- What the automatic balancer has done and last saw; one row.
CREATE TABLE IF NOT EXISTS mogile_balance (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    moved_fids bigint NOT NULL DEFAULT 0,
    moved_bytes bigint NOT NULL DEFAULT 0,
    spread_percent real NOT NULL DEFAULT 0,
    evaluated_at timestamptz
);

-- What the present run of fsck is limited to (NULL: no limit); its other state is in MogileFS's settings. prefix is in the form of file.dkey.
CREATE TABLE IF NOT EXISTS mogile_fsck (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    dmid smallint,
    classid smallint,
    prefix text
);

-- Walks over what lies on the disks, looking for files that no row accounts for (younger ones than min_age seconds are passed over), and
-- for rows without a file.
CREATE TABLE IF NOT EXISTS mogile_orphan_walk (
    devid smallint PRIMARY KEY,
    last_fid bigint NOT NULL DEFAULT 0,
    min_age int NOT NULL,
    files bigint NOT NULL DEFAULT 0,
    orphans bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'stopped', 'finished')),
    problem text NOT NULL DEFAULT '',
    started int NOT NULL,
    ended int
);

-- What the walks found, a bounded number per device. is_file: there is a file by that fid, which knows nothing of this copy. todo: what a
-- person has ordered.
CREATE TABLE IF NOT EXISTS mogile_orphan (
    devid smallint NOT NULL,
    fid bigint NOT NULL,
    length bigint NOT NULL,
    mtime bigint NOT NULL,
    is_file boolean NOT NULL,
    todo text CHECK (todo IN ('remove', 'adopt')),
    PRIMARY KEY (devid, fid)
);
CREATE INDEX IF NOT EXISTS mogile_orphan_todo ON mogile_orphan (devid, fid) WHERE todo IS NOT NULL;
