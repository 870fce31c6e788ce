-- The same item may die again after a replay: then it is open again.
INSERT INTO acequia.dead_letters (
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at, state
)
SELECT
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers::jsonb, attempt, died_at, state
FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::boolean[], $14::text[], $15::integer[], $16::timestamptz[], $17::text[]
) AS new (
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at, state
)
ON CONFLICT (id) DO UPDATE
SET
    reason = excluded.reason,
    traceback = excluded.traceback,
    payload = excluded.payload,
    payload_is_base64 = excluded.payload_is_base64,
    headers = excluded.headers,
    attempt = excluded.attempt,
    died_at = excluded.died_at,
    state = excluded.state
WHERE excluded.died_at > dead_letters.died_at;
