-- Records come in any order: the earliest says when the run began.
INSERT INTO acequia.runs (run_id, dataset, source, accepted_at)
SELECT run_id, dataset, source, accepted_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS new (run_id, dataset, source, accepted_at)
ON CONFLICT (run_id) DO UPDATE
SET
    dataset = excluded.dataset,
    source = excluded.source,
    accepted_at = excluded.accepted_at
WHERE excluded.accepted_at < runs.accepted_at;
