-- What people do with dead letters is told by rows that are added, never by a change: the role at run time only inserts.
-- The same item may die again after a replay: a row for each of its deaths.

CREATE TABLE acequia.dead_letter_acts (
    dead_letter uuid NOT NULL,
    died_at timestamptz NOT NULL,
    act text NOT NULL CHECK (act IN ('replayed', 'discarded')),
    id bigint NOT NULL UNIQUE DEFAULT nextval('acequia.numbers'),
    reason text NOT NULL,
    at timestamptz NOT NULL,
    by text NOT NULL,
    PRIMARY KEY (dead_letter, died_at, act)
);
INSERT INTO acequia.dead_letter_acts (dead_letter, died_at, act, reason, at, by)
SELECT id, died_at, state, '', now(), '' FROM acequia.dead_letters WHERE state <> 'open';

DROP VIEW acequia.endings;
ALTER TABLE acequia.dead_letters
    DROP CONSTRAINT dead_letters_pkey,
    ADD PRIMARY KEY (id, died_at),
    DROP COLUMN state;
CREATE INDEX dead_letters_died ON acequia.dead_letters (died_at DESC, id DESC);

-- Each death with what became of it; of those of one item the latest counts.
CREATE VIEW acequia.deaths AS
SELECT
    d.*,
    coalesce(
        (
            SELECT a.act
            FROM acequia.dead_letter_acts AS a
            WHERE a.dead_letter = d.id AND a.died_at = d.died_at
            ORDER BY a.id DESC LIMIT 1
        ),
        'open'
    ) AS state,
    NOT EXISTS (SELECT FROM acequia.dead_letters AS n WHERE n.id = d.id AND n.died_at > d.died_at) AS latest
FROM acequia.dead_letters AS d;

-- The events that end a work item, the best first: an outcome; a death that was not replayed; an input that was gone.
CREATE VIEW acequia.endings AS
SELECT
    e.event_id, e.id, e.kind, e.status, e.run_id, e.parents, e.stage, e.variant, e.dataset, e.stem,
    e.rows_in, e.rows_out, e.rows_duplicate, e.rows_rejected, e.attempt, e.started, e.finished, e.stored_at, e.record,
    CASE e.kind WHEN 'outcome' THEN 0 WHEN 'dead' THEN 1 ELSE 2 END AS rank,
    coalesce(substring(e.variant FROM '^v([0-9]{1,9})-')::integer, 0) AS version
FROM acequia.audit_events AS e
LEFT JOIN acequia.deaths AS d ON d.id = e.event_id AND d.latest
WHERE
    e.kind = 'outcome'
    OR (e.kind = 'dead' AND coalesce(d.state, 'open') <> 'replayed')
    OR (e.kind = 'note' AND e.status IN ('GONE', 'SUPERSEDED'));
