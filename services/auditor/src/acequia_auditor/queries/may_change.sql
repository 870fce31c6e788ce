-- Whether the role $1 (null: the one that we log in as) could change or remove anything that was recorded: by its own
-- rights, by those of a role that it is a member of, or of everybody; or as one of the owner's, who may grant itself all.
SELECT
    pg_has_role(r.name, n.nspowner, 'MEMBER')
    OR EXISTS (
        SELECT
        FROM pg_class AS c
        WHERE
            c.relnamespace = n.oid
            AND c.relkind IN ('r', 'p', 'v')
            AND (
                pg_has_role(r.name, c.relowner, 'MEMBER')
                OR has_any_column_privilege(r.name, c.oid, 'UPDATE')
                OR has_table_privilege(r.name, c.oid, 'DELETE, TRUNCATE')
            )
    )
FROM pg_namespace AS n, (SELECT coalesce($1::name, current_user) AS name) AS r
WHERE n.nspname = 'acequia';
