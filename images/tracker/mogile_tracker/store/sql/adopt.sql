-- Widens what the original schema is too narrow for. Each change is made only where it is still needed: a changed column type takes an
-- exclusive lock. None of these tables is large (tempfile holds uploads in flight; file and file_on are never touched).
DO $$
DECLARE
    fid_sequence text := pg_get_serial_sequence('tempfile', 'fid');
BEGIN
    -- fids end at 2^31 in the original
    IF (SELECT atttypid FROM pg_attribute WHERE attrelid = 'tempfile'::regclass AND attname = 'fid') <> 'int8'::regtype THEN
        ALTER TABLE tempfile ALTER COLUMN fid TYPE bigint;
    END IF;
    IF (SELECT data_type FROM pg_sequences WHERE format('%I.%I', schemaname, sequencename)::regclass = fid_sequence::regclass) <> 'bigint'::regtype THEN
        EXECUTE format('ALTER SEQUENCE %s AS bigint', fid_sequence);
    END IF;
    -- host addresses are 15 characters in the original (no IPv6, no names), host names 40
    IF (SELECT atttypid FROM pg_attribute WHERE attrelid = 'host'::regclass AND attname = 'hostip') <> 'text'::regtype THEN
        ALTER TABLE host ALTER COLUMN hostip TYPE text, ALTER COLUMN altip TYPE text, ALTER COLUMN altmask TYPE text,
            ALTER COLUMN hostname TYPE varchar(255);
    END IF;
END
$$;
