SELECT run_id, dataset, source, accepted_at
FROM acequia.runs
WHERE ($1::text IS NULL OR dataset = $1) AND ($2::timestamptz IS NULL OR accepted_at < $2)
ORDER BY accepted_at DESC, run_id
LIMIT $3;
