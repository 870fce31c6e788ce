SELECT
    id, run_id, stage, stem, variant, dataset, reason, traceback, uri, type, message_id, payload, payload_is_base64,
    headers, attempt, died_at, state
FROM acequia.deaths
WHERE id = $1 AND latest;
