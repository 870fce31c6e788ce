SELECT
    seq, hash, body, event_id, kind, status, run_id, parents, stage, variant, dataset, stem,
    rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, record
FROM acequia.audit_events
WHERE seq > $1
ORDER BY seq
LIMIT $2;
