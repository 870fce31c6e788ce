SELECT DISTINCT l.input_uri, l.output_uri, e.stage, e.variant, e.run_id, l.event_id
FROM acequia.lineage_edges AS l
JOIN acequia.audit_events AS e ON e.event_id = l.event_id
WHERE l.input_uri = ANY($1::text[]) AND l.output_uri = ANY($1::text[])
LIMIT $2;
