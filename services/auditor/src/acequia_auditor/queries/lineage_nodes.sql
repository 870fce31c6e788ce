SELECT
    n.uri, n.etag, a.dataset, a.run_id, a.stage, a.stem, a.variant, a.bytes, a.rows, a.sha256, a.created,
    e.record -> 'parameters' AS parameters, e.record -> 'metrics' AS metrics
FROM unnest($1::text[], $2::text[]) AS n (uri, etag)
LEFT JOIN acequia.artifacts AS a ON a.uri = n.uri AND a.etag = n.etag
LEFT JOIN acequia.audit_events AS e ON e.event_id = a.event_id;
