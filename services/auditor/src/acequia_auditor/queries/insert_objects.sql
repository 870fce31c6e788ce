INSERT INTO acequia.event_objects (event_id, role, n, uri, etag, layer, bytes, rows)
SELECT event_id, role, n, uri, etag, layer, bytes, rows
FROM unnest(
    $1::uuid[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[]
) AS new (event_id, role, n, uri, etag, layer, bytes, rows)
ON CONFLICT DO NOTHING;
