INSERT INTO acequia.dead_letters (
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at
)
SELECT
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers::jsonb, attempt, died_at
FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::boolean[], $14::text[], $15::integer[], $16::timestamptz[]
) AS new (
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at
)
ON CONFLICT DO NOTHING;
