-- An ingestion, or a run of its own (a training), told by its first event.
SELECT run_id, dataset, source, accepted_at FROM acequia.runs WHERE run_id = $1
UNION ALL
(
    SELECT run_id, dataset, coalesce(stem, stage) AS source, started AS accepted_at
    FROM acequia.audit_events
    WHERE run_id = $1 AND NOT EXISTS (SELECT 1 FROM acequia.runs WHERE run_id = $1)
    ORDER BY started, id
    LIMIT 1
);
