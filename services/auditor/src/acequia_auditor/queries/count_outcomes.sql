SELECT count(*) AS n FROM acequia.audit_events WHERE kind = 'outcome' AND seq <= $1;
