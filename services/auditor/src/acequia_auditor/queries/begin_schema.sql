-- Asked for only where it is missing: CREATE SCHEMA IF NOT EXISTS needs the right to create one even if it is there.
DO $$
BEGIN
    IF to_regnamespace('acequia') IS NULL THEN
        CREATE SCHEMA acequia;
    END IF;
END
$$;
CREATE TABLE IF NOT EXISTS acequia.migrations (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
