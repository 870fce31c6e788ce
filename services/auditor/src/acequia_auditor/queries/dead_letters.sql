SELECT
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at, state
FROM acequia.dead_letters
WHERE
    ($1::text IS NULL OR state = $1)
    AND ($2::text IS NULL OR stage = $2)
    AND ($3::uuid IS NULL OR id = $3)
ORDER BY died_at DESC, id
LIMIT $4;
