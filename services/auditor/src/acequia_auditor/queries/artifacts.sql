SELECT uri, etag, layer, dataset, run_id, stage, stem, variant, bytes, rows, sha256, created
FROM acequia.artifacts
WHERE
    ($1::text IS NULL OR layer = $1)
    AND ($2::text IS NULL OR dataset = $2)
    AND ($3::uuid IS NULL OR run_id = $3)
ORDER BY id DESC
LIMIT $4;
