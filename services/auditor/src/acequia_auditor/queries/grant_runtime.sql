-- What the auditor may do at run time: read everything, add records. No record can be changed, removed or emptied; what a
-- run is called (acequia.runs) is told anew by tell_runs(). What somebody else granted, or PUBLIC has, is not taken back
-- here: see may_change.sql.
DO $$
DECLARE
    role text := current_setting('acequia.runtime_role');
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA acequia FROM %I', role);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA acequia FROM %I', role);
    EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA acequia FROM %I', role);
    EXECUTE format('REVOKE ALL ON SCHEMA acequia FROM %I', role);
    EXECUTE format('GRANT USAGE ON SCHEMA acequia TO %I', role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA acequia TO %I', role);
    EXECUTE format(
        'GRANT INSERT ON acequia.audit_events, acequia.event_objects, acequia.artifacts, acequia.chains, '
        'acequia.dead_letters, acequia.dead_letter_acts TO %I',
        role
    );
    EXECUTE format('GRANT USAGE ON SEQUENCE acequia.numbers TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION acequia.tell_runs(uuid[], text[], text[], timestamptz[]) TO %I', role);
    IF NOT has_database_privilege(role, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    END IF;
    IF EXISTS (
        SELECT FROM pg_views
        WHERE schemaname = 'public' AND viewname = 'ingestion_events' AND viewowner = current_user
    ) THEN
        EXECUTE format('GRANT SELECT ON public.ingestion_events TO %I', role);
    END IF;
END
$$;
