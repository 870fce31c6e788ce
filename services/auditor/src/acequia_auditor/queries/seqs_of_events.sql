SELECT event_id, seq FROM acequia.audit_events WHERE event_id = ANY($1::uuid[]);
