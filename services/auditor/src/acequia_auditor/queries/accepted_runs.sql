SELECT DISTINCT run_id FROM acequia.audit_events WHERE run_id = ANY($1::uuid[]) AND kind = 'accepted';
