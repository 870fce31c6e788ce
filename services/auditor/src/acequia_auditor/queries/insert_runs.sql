-- Records come in any order: the earliest that knows the dataset says what the run is.
INSERT INTO acequia.runs (run_id, dataset, source, accepted_at)
SELECT run_id, dataset, source, accepted_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS new (run_id, dataset, source, accepted_at)
ON CONFLICT (run_id) DO UPDATE
SET
    dataset = CASE WHEN excluded.dataset = '_unknown' THEN runs.dataset ELSE excluded.dataset END,
    source = CASE WHEN excluded.dataset = '_unknown' THEN runs.source ELSE excluded.source END,
    accepted_at = least(runs.accepted_at, excluded.accepted_at)
WHERE excluded.accepted_at < runs.accepted_at OR runs.dataset = '_unknown';
