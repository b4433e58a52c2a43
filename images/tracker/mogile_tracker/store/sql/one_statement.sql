-- A batch that locks, changes, marks and commits in one statement (store/onestatement.py); made for a connection, gone with it. Arguments
-- are those of the body, then names to lock, lane and batch. Each statement of a volatile function sees what was committed before it
-- began, so what follows the locks sees everything done under them. The mark is the last word: where somebody has settled this batch
-- meanwhile, all of it is undone.
CREATE FUNCTION pg_temp.mogile_{name}({types}, text[], uuid, bigint) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
    result bigint[];
    {variables}
BEGIN
    PERFORM pg_advisory_xact_lock(h)
    FROM (SELECT DISTINCT hashtextextended(name, 17) AS h FROM unnest(${names}) AS name ORDER BY 1) AS sorted;
    {body}
    INSERT INTO mogile_commit AS m (lane, batch, outcome) VALUES (${lane}, ${batch}, result)
    ON CONFLICT (lane) DO UPDATE SET batch = excluded.batch, at = excluded.at, outcome = excluded.outcome WHERE m.batch < excluded.batch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'batch % of lane % was settled as not committed', ${batch}, ${lane};
    END IF;
    RETURN result;
END
$function$
