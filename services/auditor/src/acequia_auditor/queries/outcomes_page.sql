-- Outcomes with what tells where their commit object lies: the first input, and the output that is one.
SELECT
    e.seq, e.stage, e.run_id, i.uri AS input_uri, i.etag AS input_etag, o.uri AS output_uri, o.etag AS output_etag
FROM acequia.audit_events AS e
LEFT JOIN acequia.event_objects AS i ON i.event_id = e.event_id AND i.role = 'input' AND i.n = 0
LEFT JOIN LATERAL (
    SELECT uri, etag
    FROM acequia.event_objects
    WHERE
        event_id = e.event_id AND role = 'output'
        AND (
            layer = 'silver'
            OR (layer = 'quarantine' AND uri LIKE '%.rejected.json')
            OR (layer = 'models' AND uri LIKE '%/model.json')
            OR (layer = 'eval' AND uri LIKE '%/evaluation.json')
        )
    ORDER BY n
    LIMIT 1
) AS o ON true
WHERE e.kind = 'outcome' AND e.seq > $1 AND e.seq <= $2
ORDER BY e.seq
LIMIT $3;
