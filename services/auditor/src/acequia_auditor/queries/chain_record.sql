SELECT hash FROM acequia.audit_events WHERE seq = $1;
