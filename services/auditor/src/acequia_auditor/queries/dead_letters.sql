-- $4 and $5: only what died before, or after, that time. $6 and $7: the last of the page before.
SELECT id, run_id, stage, stem, variant, dataset, left(reason, 2000) AS reason, uri, type, attempt, died_at, state
FROM acequia.deaths
WHERE
    latest
    AND ($1::text IS NULL OR stage = $1)
    AND ($2::text IS NULL OR dataset = $2)
    AND ($3::text IS NULL OR state = $3)
    AND ($4::timestamptz IS NULL OR died_at < $4)
    AND ($5::timestamptz IS NULL OR died_at > $5)
    AND ($6::timestamptz IS NULL OR (died_at, id) < ($6, $7::uuid))
ORDER BY died_at DESC, id DESC
LIMIT $8;
