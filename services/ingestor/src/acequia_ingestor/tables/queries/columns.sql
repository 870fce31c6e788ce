-- The columns of a relation in their order. A domain is told as what it is made of. $relation: its quoted name.
SELECT
    a.attname::text AS name,
    format_type(a.atttypid, a.atttypmod) AS type,
    b.typname::text AS base,
    n.nspname = 'pg_catalog' AS known,
    e.typname::text AS element,
    coalesce(ne.nspname = 'pg_catalog', false) AS element_known,
    CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS typmod,
    a.attnotnull AS not_null
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
JOIN pg_namespace AS n ON n.oid = b.typnamespace
LEFT JOIN pg_type AS e ON e.oid = b.typelem AND b.typcategory = 'A'
LEFT JOIN pg_namespace AS ne ON ne.oid = e.typnamespace
WHERE a.attrelid = $relation::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
