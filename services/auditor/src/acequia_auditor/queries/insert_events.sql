INSERT INTO acequia.audit_events (
    event_id, kind, status, run_id, parents, stage, variant, dataset, stem,
    rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, record, body, seq, hash
)
SELECT
    event_id, kind, status, run_id, parents::uuid[], stage, variant, dataset, stem,
    rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, body::jsonb, body, seq, hash
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::integer[],
    $15::timestamptz[], $16::timestamptz[], $17::text[], $18::bigint[], $19::bytea[]
) AS new (
    event_id, kind, status, run_id, parents, stage, variant, dataset, stem,
    rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, body, seq, hash
);
