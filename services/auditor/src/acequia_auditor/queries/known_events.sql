SELECT event_id FROM acequia.audit_events WHERE event_id = ANY($1::uuid[]);
