-- One sequence for everything that is numbered, so that a number in public.ingestion_events is unique whatever stands
-- behind it.
CREATE SEQUENCE acequia.numbers AS bigint;

CREATE TABLE acequia.audit_events (
    event_id uuid PRIMARY KEY,
    id bigint NOT NULL UNIQUE DEFAULT nextval('acequia.numbers'),
    kind text NOT NULL,
    status text NOT NULL,
    run_id uuid NOT NULL,
    parents uuid[] NOT NULL,
    stage text NOT NULL,
    variant text NOT NULL,
    dataset text NOT NULL,
    stem text,
    rows_in bigint NOT NULL,
    rows_out bigint NOT NULL,
    rows_duplicate bigint NOT NULL,
    rows_rejected bigint NOT NULL,
    attempt integer NOT NULL,
    started timestamptz NOT NULL,
    finished timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    record jsonb NOT NULL
);
CREATE INDEX audit_events_run ON acequia.audit_events (run_id, stage);
CREATE INDEX audit_events_stem ON acequia.audit_events (stem) WHERE stem IS NOT NULL;

-- What each event read and wrote. An edge of the lineage is an input and an output of one outcome; it is not stored,
-- because a training of n objects with m files would need n * m rows.
CREATE TABLE acequia.event_objects (
    event_id uuid NOT NULL REFERENCES acequia.audit_events (event_id) ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('input', 'output')),
    n integer NOT NULL,
    id bigint NOT NULL DEFAULT nextval('acequia.numbers'),
    uri text NOT NULL,
    etag text NOT NULL,
    layer text,
    bytes bigint,
    rows bigint,
    PRIMARY KEY (event_id, role, n)
);
CREATE INDEX event_objects_uri ON acequia.event_objects (uri, role);

CREATE TABLE acequia.artifacts (
    uri text NOT NULL,
    etag text NOT NULL,
    id bigint NOT NULL UNIQUE DEFAULT nextval('acequia.numbers'),
    layer text,
    dataset text NOT NULL,
    run_id uuid NOT NULL,
    stage text NOT NULL,
    stem text,
    variant text NOT NULL,
    bytes bigint,
    rows bigint,
    sha256 text,
    created timestamptz NOT NULL,
    event_id uuid NOT NULL REFERENCES acequia.audit_events (event_id) ON DELETE CASCADE,
    PRIMARY KEY (uri, etag)
);
CREATE INDEX artifacts_run ON acequia.artifacts (run_id);
CREATE INDEX artifacts_layer ON acequia.artifacts (layer, id DESC);

-- One row per ingestion, so that the newest are found without reading every event.
CREATE TABLE acequia.runs (
    run_id uuid PRIMARY KEY,
    dataset text NOT NULL,
    source text NOT NULL,
    accepted_at timestamptz NOT NULL
);
CREATE INDEX runs_accepted ON acequia.runs (accepted_at DESC);

CREATE TABLE acequia.dead_letters (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    stage text NOT NULL,
    stem text NOT NULL,
    variant text NOT NULL,
    dataset text NOT NULL,
    reason text NOT NULL,
    traceback text NOT NULL,
    uri text,
    type text NOT NULL,
    message_id text NOT NULL,
    payload text NOT NULL,
    payload_is_base64 boolean NOT NULL,
    headers jsonb NOT NULL,
    attempt integer NOT NULL,
    died_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'discarded', 'replayed'))
);
CREATE INDEX dead_letters_open ON acequia.dead_letters (state, died_at DESC);

CREATE VIEW acequia.lineage_edges AS
SELECT
    i.uri AS input_uri,
    i.etag AS input_etag,
    o.uri AS output_uri,
    o.etag AS output_etag,
    e.event_id
FROM acequia.audit_events AS e
JOIN acequia.event_objects AS i ON i.event_id = e.event_id AND i.role = 'input'
JOIN acequia.event_objects AS o ON o.event_id = e.event_id AND o.role = 'output'
WHERE e.kind = 'outcome';

-- The events that end a work item, the best first: an outcome; a death that was not replayed; an input that was gone.
CREATE VIEW acequia.endings AS
SELECT
    e.*,
    CASE e.kind WHEN 'outcome' THEN 0 WHEN 'dead' THEN 1 ELSE 2 END AS rank,
    coalesce(substring(e.variant FROM '^v([0-9]{1,9})-')::integer, 0) AS version
FROM acequia.audit_events AS e
LEFT JOIN acequia.dead_letters AS d ON d.id = e.event_id
WHERE
    e.kind = 'outcome'
    OR (e.kind = 'dead' AND coalesce(d.state, 'open') <> 'replayed')
    OR (e.kind = 'note' AND e.status IN ('GONE', 'SUPERSEDED'));
