-- Closing uploads that have further copies, as the body of one statement (store/closing.py): the steps of `run_close`. Arguments are those
-- of `close`, then fids ($9) and devids ($10) of the further copies. What is late is not closed: its fid becomes 0, which no upload has.
WITH standing AS ({settle_intents})
SELECT array_agg(fid), array_agg(devid) FROM standing INTO standing_fids, standing_devids;
late := ARRAY(
    SELECT DISTINCT n.fid FROM unnest($9, $10) AS n(fid, devid)
    WHERE (n.fid, n.devid) NOT IN (SELECT * FROM unnest(standing_fids, standing_devids)));
$1 := ARRAY(SELECT CASE WHEN i.fid = ANY (late) THEN 0 ELSE i.fid END FROM unnest($1) WITH ORDINALITY AS i(fid, n) ORDER BY i.n);
{close} INTO result;
SELECT array_agg(fid) FILTER (WHERE closed), array_agg(devid) FILTER (WHERE closed),
       array_agg(fid) FILTER (WHERE NOT closed), array_agg(devid) FILTER (WHERE NOT closed)
FROM (
    SELECT n.fid, n.devid, coalesce(n.fid = ANY (result), false) AS closed FROM unnest(standing_fids, standing_devids) AS n(fid, devid)
) AS n
INTO placed_fids, placed_devids, lost_fids, lost_devids;
{place_copies};
IF lost_fids IS NOT NULL THEN
    {discard_copies};
END IF;
result := result || ARRAY(SELECT -fid FROM unnest(late) AS fid);
