INSERT INTO acequia.artifacts (
    uri, etag, layer, dataset, run_id, stage, stem, variant, bytes, rows, sha256, created, event_id
)
SELECT uri, etag, layer, dataset, run_id, stage, stem, variant, bytes, rows, sha256, created, event_id
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
    $9::bigint[], $10::bigint[], $11::text[], $12::timestamptz[], $13::uuid[]
) AS new (uri, etag, layer, dataset, run_id, stage, stem, variant, bytes, rows, sha256, created, event_id)
ON CONFLICT DO NOTHING;
