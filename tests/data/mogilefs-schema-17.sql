-- A database as MogileFS 2.73 leaves it (schema_version 17): types and keys as observed, written for these tests.
CREATE TABLE domain (dmid smallint PRIMARY KEY, namespace varchar(255) UNIQUE);
CREATE TABLE class (dmid smallint NOT NULL, classid smallint NOT NULL, classname varchar(50), mindevcount smallint NOT NULL,
    hashtype smallint, replpolicy varchar(255), PRIMARY KEY (dmid, classid), UNIQUE (dmid, classname));
CREATE TABLE file (fid bigint NOT NULL PRIMARY KEY, dmid smallint NOT NULL, dkey varchar(255), length bigint CHECK (length >= 0),
    classid smallint NOT NULL, devcount smallint NOT NULL, UNIQUE (dmid, dkey));
CREATE INDEX file_under_another_name ON file (dmid, classid, devcount);
CREATE TABLE tempfile (fid serial PRIMARY KEY, createtime int NOT NULL, classid smallint NOT NULL, dmid smallint NOT NULL,
    dkey varchar(255), devids varchar(60));
CREATE TABLE file_on (fid bigint NOT NULL, devid smallint NOT NULL, PRIMARY KEY (fid, devid));
CREATE INDEX file_on_devid ON file_on (devid);
CREATE TABLE file_on_corrupt (fid bigint NOT NULL, devid smallint NOT NULL, PRIMARY KEY (fid, devid));
CREATE TABLE unreachable_fids (fid bigint NOT NULL PRIMARY KEY, lastupdate int NOT NULL);
CREATE TABLE file_to_delete (fid bigint NOT NULL PRIMARY KEY);
CREATE TABLE file_to_delete_later (fid bigint NOT NULL PRIMARY KEY, delafter int NOT NULL);
CREATE TABLE file_to_delete2 (fid bigint NOT NULL PRIMARY KEY, nexttry int NOT NULL, failcount smallint NOT NULL DEFAULT 0);
CREATE INDEX file_to_delete2_nexttry ON file_to_delete2 (nexttry);
CREATE TABLE file_to_replicate (fid bigint NOT NULL PRIMARY KEY, nexttry int, fromdevid int, failcount smallint NOT NULL DEFAULT 0,
    flags smallint NOT NULL DEFAULT 0);
CREATE INDEX file_to_replicate_nexttry ON file_to_replicate (nexttry);
CREATE TABLE file_to_queue (fid bigint NOT NULL, devid int, type smallint NOT NULL, nexttry int NOT NULL,
    failcount smallint NOT NULL DEFAULT 0, flags smallint NOT NULL DEFAULT 0, arg text, PRIMARY KEY (fid, type));
CREATE INDEX type_nexttry ON file_to_queue (type, nexttry);
CREATE TABLE fsck_log (logid serial PRIMARY KEY, utime int NOT NULL, fid bigint, evcode char(4), devid smallint);
CREATE INDEX fsck_log_utime ON fsck_log (utime);
CREATE TABLE checksum (fid bigint NOT NULL PRIMARY KEY, hashtype smallint NOT NULL, checksum bytea NOT NULL);
CREATE TABLE host (hostid smallint PRIMARY KEY, status varchar(8) CHECK (status IN ('alive', 'dead', 'down', 'readonly')),
    http_port int DEFAULT 7500, http_get_port int, hostname varchar(40) UNIQUE, hostip varchar(15) UNIQUE, altip varchar(15) UNIQUE,
    altmask varchar(18));
CREATE TABLE device (devid smallint PRIMARY KEY, hostid smallint NOT NULL,
    status varchar(8) CHECK (status IN ('alive', 'dead', 'down', 'readonly', 'drain')), weight int DEFAULT 100, mb_total int, mb_used int,
    mb_asof int);
CREATE INDEX device_status ON device (status);
CREATE TABLE server_settings (field varchar(50) PRIMARY KEY, value text);
CREATE TABLE lock (lockid int PRIMARY KEY, hostname varchar(255) NOT NULL, pid int NOT NULL, acquiredat int NOT NULL);
INSERT INTO server_settings VALUES ('schema_version', '17');
