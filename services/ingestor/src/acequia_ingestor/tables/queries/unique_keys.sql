-- The columns of each index that lets no two rows be alike in them. $relation: its quoted name.
SELECT i.indexrelid::bigint AS index, a.attname::text AS name
FROM pg_index AS i
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
WHERE
    i.indrelid = $relation::regclass AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
ORDER BY i.indexrelid
