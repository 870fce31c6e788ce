SELECT id, stage, stem, variant
FROM acequia.deaths
WHERE latest AND state <> 'replayed' AND id > $1
ORDER BY id
LIMIT $2;
