-- Which cluster this is, and how often its history has forked. The control file of a standby tells of the last
-- restart point only, so that what it receives is asked too.
SELECT
    s.system_identifier::text AS system,
    CASE
        WHEN pg_is_in_recovery()
            THEN greatest(p.timeline_id, (SELECT max(w.received_tli) FROM pg_stat_wal_receiver AS w))
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer
    END AS timeline
FROM pg_control_system() AS s, pg_control_checkpoint() AS p
