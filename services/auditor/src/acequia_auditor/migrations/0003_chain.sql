-- A chain of hashes over the audit events, so that a changed, missing or cut off past is seen.
--
-- seq counts from 1 without gaps; hash = sha256(the hash before || event_id, 16 bytes || body, UTF-8). The first record
-- follows sha256('acequia audit chain ' || the chain's id). body is the record's JSON exactly as it was hashed.

CREATE TABLE acequia.chains (
    id uuid PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX chains_only_one ON acequia.chains ((true));

ALTER TABLE acequia.audit_events ADD COLUMN seq bigint, ADD COLUMN body text, ADD COLUMN hash bytea;

-- What is there already is chained in the order in which it was stored.
DO $$
DECLARE
    event record;
    chain uuid := gen_random_uuid();
    last bytea := sha256(convert_to('acequia audit chain ' || chain, 'UTF8'));
    n bigint := 0;
BEGIN
    FOR event IN SELECT event_id, record::text AS body FROM acequia.audit_events ORDER BY id LOOP
        n := n + 1;
        last := sha256(last || uuid_send(event.event_id) || convert_to(event.body, 'UTF8'));
        UPDATE acequia.audit_events SET seq = n, body = event.body, hash = last WHERE event_id = event.event_id;
    END LOOP;
    IF n > 0 THEN
        INSERT INTO acequia.chains (id) VALUES (chain);
    END IF;
END
$$;

ALTER TABLE acequia.audit_events
    ALTER COLUMN seq SET NOT NULL,
    ALTER COLUMN body SET NOT NULL,
    ALTER COLUMN hash SET NOT NULL,
    ADD UNIQUE (seq);

-- The one row that changes: records come in any order, and the earliest that knows the dataset says what a run is. A
-- function of the owner's, so that the role at run time needs no UPDATE on anything.
CREATE FUNCTION acequia.tell_runs(uuid[], text[], text[], timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO acequia.runs (run_id, dataset, source, accepted_at)
SELECT run_id, dataset, source, accepted_at
FROM unnest($1, $2, $3, $4) AS new (run_id, dataset, source, accepted_at)
ON CONFLICT (run_id) DO UPDATE
SET
    dataset = CASE WHEN excluded.dataset = '_unknown' THEN runs.dataset ELSE excluded.dataset END,
    source = CASE WHEN excluded.dataset = '_unknown' THEN runs.source ELSE excluded.source END,
    accepted_at = least(runs.accepted_at, excluded.accepted_at)
WHERE excluded.accepted_at < runs.accepted_at OR runs.dataset = '_unknown';
$$;
REVOKE ALL ON FUNCTION acequia.tell_runs(uuid[], text[], text[], timestamptz[]) FROM PUBLIC;
