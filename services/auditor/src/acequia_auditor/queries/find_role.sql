-- The role $1, if it is there, and what it is; and whether we may make roles.
SELECT
    r.oid IS NOT NULL AS there,
    coalesce(r.rolsuper, false) AS is_superuser,
    me.rolsuper OR me.rolcreaterole AS may_make_roles
FROM pg_roles AS me
LEFT JOIN pg_roles AS r ON r.rolname = $1
WHERE me.rolname = current_user;
