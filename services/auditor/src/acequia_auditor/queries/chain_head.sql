-- The chain and its last record; seq and hash are null while it has none. No row: no chain was begun.
SELECT c.id AS chain, e.seq, e.hash, e.event_id
FROM acequia.chains AS c
LEFT JOIN LATERAL (
    SELECT seq, hash, event_id FROM acequia.audit_events ORDER BY seq DESC LIMIT 1
) AS e ON true;
