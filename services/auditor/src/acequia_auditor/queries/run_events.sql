SELECT record, stored_at
FROM acequia.audit_events
WHERE run_id = $1 OR event_id = ANY($2::uuid[])
ORDER BY finished, id
LIMIT $3;
