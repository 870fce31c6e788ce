SELECT n.uri, o.event_id, e.seq
FROM unnest($1::text[], $2::text[]) AS n (uri, etag)
JOIN acequia.event_objects AS o ON o.uri = n.uri AND o.role = 'output' AND o.etag IN (n.etag, '')
JOIN acequia.audit_events AS e ON e.event_id = o.event_id AND e.kind = 'outcome';
