CREATE SCHEMA IF NOT EXISTS acequia;
CREATE TABLE IF NOT EXISTS acequia.migrations (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
