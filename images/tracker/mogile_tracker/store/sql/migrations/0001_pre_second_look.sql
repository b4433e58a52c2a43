-- A walk over a device that went out or came back is made twice (workers/reaper): when the second one may begin, NULL for the last one.
ALTER TABLE mogile_device_walk ADD COLUMN IF NOT EXISTS again_at int;
