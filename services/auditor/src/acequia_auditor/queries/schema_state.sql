-- What a role that may not even look into the schema can ask: from the catalogue alone.
SELECT
    pg_encoding_to_char(d.encoding) AS encoding,
    n.oid IS NOT NULL AS there,
    CASE
        WHEN n.oid IS NULL THEN has_database_privilege(d.oid, 'CREATE')
        ELSE pg_has_role(n.nspowner, 'USAGE')
    END AS may_migrate,
    c.oid IS NOT NULL AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may_read
FROM pg_database AS d
LEFT JOIN pg_namespace AS n ON n.nspname = 'acequia'
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'migrations'
WHERE d.datname = current_database();
