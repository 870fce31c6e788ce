-- $1 null: from the very first, whatever its number.
SELECT
    seq, hash, body, event_id, kind, status, run_id, parents, stage, variant, dataset, stem,
    rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, record
FROM acequia.audit_events
WHERE $1::bigint IS NULL OR seq > $1
ORDER BY seq
LIMIT $2;
