-- Where a trace begins: $1 a uri, or $2 a run's id, or $3 and $4 a model's stem and variant.
(
    SELECT uri, etag FROM acequia.event_objects WHERE uri = $1::text
    UNION
    SELECT o.uri, o.etag
    FROM acequia.audit_events AS e
    JOIN acequia.event_objects AS o ON o.event_id = e.event_id AND o.role = 'output'
    WHERE e.run_id = $2::uuid AND e.kind = 'outcome'
    UNION
    SELECT o.uri, o.etag
    FROM acequia.audit_events AS e
    JOIN acequia.event_objects AS o ON o.event_id = e.event_id AND o.role = 'output'
    WHERE e.stem = $3::text AND e.variant = $4::text AND o.uri LIKE '%/model.json'
)
LIMIT 1000;
