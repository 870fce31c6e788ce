-- The record with which a chain names the one before it.
SELECT body FROM acequia.audit_events WHERE seq = 1 AND status = 'CHAIN_BEGUN';
