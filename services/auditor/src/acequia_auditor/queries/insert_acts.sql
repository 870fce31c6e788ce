INSERT INTO acequia.dead_letter_acts (dead_letter, died_at, act, reason, at, by)
SELECT dead_letter, died_at, act, reason, at, by
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
    AS new (dead_letter, died_at, act, reason, at, by)
ON CONFLICT DO NOTHING;
