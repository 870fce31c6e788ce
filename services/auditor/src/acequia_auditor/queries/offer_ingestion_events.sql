-- public.ingestion_events is ours only where the name is free: a table, a foreign table or another's view stays.
DO $$
BEGIN
    IF to_regclass('public.ingestion_events') IS NULL THEN
        CREATE VIEW public.ingestion_events AS SELECT * FROM acequia.ingestions_as_before;
        COMMENT ON VIEW public.ingestion_events IS 'acequia: the ingestions, as the predecessors listed them';
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR invalid_schema_name THEN
        RAISE NOTICE 'no view public.ingestion_events: %', SQLERRM;
END
$$;
