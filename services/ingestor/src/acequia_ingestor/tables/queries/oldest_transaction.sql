-- When the oldest transaction that is still open began, as far as this role may see. Ours only read.
SELECT least(
    (
        SELECT min(a.xact_start) FROM pg_stat_activity AS a
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.application_name <> 'acequia'
    ),
    (SELECT min(p.prepared) FROM pg_prepared_xacts AS p WHERE p.database = current_database())
)::text AS oldest
