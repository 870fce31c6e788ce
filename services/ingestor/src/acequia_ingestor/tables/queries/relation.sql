-- The relation, where it lies, and the snapshot that it is read in. $relation: its quoted name.
SELECT
    c.oid::bigint AS relation,
    c.relkind::text AS kind,
    (SELECT d.oid::bigint FROM pg_database AS d WHERE d.datname = current_database()) AS database,
    current_setting('server_version_num')::bigint AS version,
    pg_is_in_recovery() AS standby,
    has_function_privilege('pg_control_system()', 'execute')
    AND has_function_privilege('pg_control_checkpoint()', 'execute') AS may_tell_cluster,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax,
    now()::text AS at
FROM pg_class AS c
WHERE c.oid = $relation::regclass
