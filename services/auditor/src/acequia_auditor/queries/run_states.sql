-- How far each run is. $1: run ids; $2, $3, $4: which stages read which layer of which dataset.
-- A run's objects are followed by uri and etag ('' where a record does not know it): from what the ingestor wrote to
-- the transformer's outcomes, from those to the first plan of each reader that covered them, from a training's model to
-- its evaluation.
WITH picked AS (
    SELECT DISTINCT run_id FROM unnest($1::uuid[]) AS p (run_id)
),
readers AS (
    SELECT dataset, layer, stage FROM unnest($2::text[], $3::text[], $4::text[]) AS r (dataset, layer, stage)
),
ingest_all AS (
    SELECT e.*, min(e.rank) OVER (PARTITION BY e.run_id) AS best
    FROM acequia.endings AS e
    JOIN picked AS p ON p.run_id = e.run_id
    WHERE e.stage = 'ingestor'
),
ingest AS (
    SELECT * FROM ingest_all WHERE rank = best
),
raw AS (
    -- a run of several datasets: each object's is its first folder
    SELECT DISTINCT
        i.run_id,
        CASE i.dataset WHEN '_tables' THEN split_part(o.uri, '/', 4) ELSE i.dataset END AS dataset,
        o.uri,
        o.etag
    FROM ingest AS i
    JOIN acequia.event_objects AS o ON o.event_id = i.event_id AND o.role = 'output' AND o.layer = 'raw'
    WHERE i.rank = 0 AND i.status IN ('SUCCESS', 'IMPORTED')
),
at_raw AS (
    SELECT
        raw.run_id, raw.dataset, raw.uri, r.stage, b.event_id, b.status, b.rank,
        b.rows_in, b.rows_out, b.rows_duplicate, b.rows_rejected, b.finished, b.record
    FROM raw
    JOIN readers AS r ON r.dataset = raw.dataset AND r.layer = 'raw'
    LEFT JOIN LATERAL (
        SELECT e.*
        FROM acequia.event_objects AS i
        JOIN acequia.endings AS e ON e.event_id = i.event_id
        WHERE
            i.role = 'input' AND i.uri = raw.uri AND (i.etag = raw.etag OR '' IN (i.etag, raw.etag))
            AND e.stage = r.stage
        ORDER BY e.rank, e.version DESC, e.finished DESC, e.id
        LIMIT 1
    ) AS b ON true
),
silver AS (
    SELECT DISTINCT a.run_id, a.dataset, o.uri, o.etag
    FROM at_raw AS a
    JOIN acequia.event_objects AS o ON o.event_id = a.event_id AND o.role = 'output' AND o.layer = 'silver'
    WHERE a.rank = 0 AND a.status = 'SUCCESS'
),
at_silver AS (
    SELECT s.run_id, s.dataset, s.uri, r.stage, b.event_id, b.status, b.rank, b.finished
    FROM silver AS s
    JOIN readers AS r ON r.dataset = s.dataset AND r.layer = 'silver'
    LEFT JOIN LATERAL (
        SELECT e.*
        FROM acequia.event_objects AS i
        JOIN acequia.endings AS e ON e.event_id = i.event_id
        WHERE
            i.role = 'input' AND i.uri = s.uri AND (i.etag = s.etag OR '' IN (i.etag, s.etag))
            AND e.stage = r.stage
        ORDER BY e.rank, e.finished, e.id
        LIMIT 1
    ) AS b ON true
),
plans AS (
    SELECT run_id, dataset, stage, event_id, status, rank, finished FROM at_silver WHERE event_id IS NOT NULL
    UNION
    -- the run is a plan's own
    SELECT e.run_id, e.dataset, e.stage, e.event_id, e.status, e.rank, e.finished
    FROM acequia.endings AS e
    JOIN picked AS p ON p.run_id = e.run_id
    JOIN readers AS r ON r.dataset = e.dataset AND r.layer = 'silver' AND r.stage = e.stage
),
models AS (
    SELECT DISTINCT t.run_id, t.dataset, t.finished, o.uri, o.etag
    FROM plans AS t
    JOIN acequia.event_objects AS o
        ON o.event_id = t.event_id AND o.role = 'output' AND o.layer = 'models' AND o.uri LIKE '%/model.json'
    WHERE t.rank = 0 AND t.status = 'SUCCESS'
),
at_models AS (
    SELECT m.run_id, m.uri, r.stage, b.event_id, b.status, b.rank, b.finished, b.record
    FROM models AS m
    JOIN readers AS r ON r.dataset = m.dataset AND r.layer = 'models'
    LEFT JOIN LATERAL (
        SELECT e.*
        FROM acequia.event_objects AS i
        JOIN acequia.endings AS e ON e.event_id = i.event_id
        WHERE
            i.role = 'input' AND i.uri = m.uri AND (i.etag = m.etag OR '' IN (i.etag, m.etag))
            AND e.stage = r.stage
        ORDER BY e.rank, e.version DESC, e.finished, e.id
        LIMIT 1
    ) AS b ON true
),
steps AS (
    SELECT run_id, event_id, rank, finished FROM ingest
    UNION ALL
    SELECT run_id, event_id, rank, finished FROM at_raw
    UNION ALL
    SELECT run_id, event_id, rank, finished FROM at_silver
    UNION ALL
    SELECT run_id, event_id, rank, finished FROM plans
    UNION ALL
    SELECT run_id, event_id, rank, finished FROM at_models
),
-- each row of a source is counted by the ingestor (not parsed) or by the transformer (all the others)
counted AS (
    SELECT run_id, status, rows_in, rows_duplicate, rows_rejected, record FROM ingest WHERE rank = 0
    UNION ALL
    SELECT run_id, status, rows_in, rows_duplicate, rows_rejected, record
    FROM at_raw WHERE stage = 'transformer' AND rank = 0
),
rules AS (
    SELECT c.run_id, x.key AS rule, x.value::bigint AS n
    FROM counted AS c
    CROSS JOIN LATERAL jsonb_each_text(c.record -> 'rejected') AS x
    UNION ALL
    -- rejected whole: all its rows, also those that no rule was counted for
    SELECT c.run_id, coalesce(c.record #>> '{error,rule}', 'rejected'), c.rows_in - c.rows_duplicate - c.rows_rejected
    FROM counted AS c
    WHERE c.status = 'REJECTED' AND c.rows_in > c.rows_duplicate + c.rows_rejected
),
by_rule AS (
    SELECT run_id, rule, sum(n) AS n FROM rules WHERE n > 0 GROUP BY run_id, rule
)
SELECT
    p.run_id,
    (SELECT count(*) FROM ingest AS i WHERE i.run_id = p.run_id) AS ingestions,
    (SELECT array_agg(DISTINCT i.status) FROM ingest AS i WHERE i.run_id = p.run_id) AS ingest_statuses,
    (
        SELECT i.record #>> '{parameters,same_as}'
        FROM ingest AS i
        WHERE i.run_id = p.run_id AND i.status = 'SAME_CONTENT'
        ORDER BY i.id LIMIT 1
    ) AS same_as,
    (
        SELECT i.record -> 'error'
        FROM ingest AS i
        WHERE i.run_id = p.run_id AND i.record -> 'error' <> 'null'
        ORDER BY i.id LIMIT 1
    ) AS error,
    (SELECT sum(i.rows_in) FROM ingest AS i WHERE i.run_id = p.run_id) AS rows_in,
    (SELECT sum(i.rows_out) FROM ingest AS i WHERE i.run_id = p.run_id) AS rows_raw,
    (
        SELECT sum(a.rows_out) FROM at_raw AS a
        WHERE a.run_id = p.run_id AND a.stage = 'transformer' AND a.status = 'SUCCESS'
    ) AS rows_silver,
    (SELECT sum(c.rows_duplicate) FROM counted AS c WHERE c.run_id = p.run_id) AS rows_duplicate,
    (SELECT sum(b.n) FROM by_rule AS b WHERE b.run_id = p.run_id) AS rows_quarantined,
    (SELECT jsonb_object_agg(b.rule, b.n) FROM by_rule AS b WHERE b.run_id = p.run_id) AS quarantined_by_rule,
    (SELECT count(*) FROM raw AS r WHERE r.run_id = p.run_id) AS raw_objects,
    (SELECT count(*) FROM silver AS s WHERE s.run_id = p.run_id) AS silver_objects,
    (SELECT count(*) FROM plans AS t WHERE t.run_id = p.run_id) AS plans,
    (SELECT count(*) FROM plans AS t WHERE t.run_id = p.run_id AND t.stage = 'trainer') AS trainings,
    (SELECT count(*) FROM steps AS s WHERE s.run_id = p.run_id AND s.event_id IS NULL) AS pending,
    (SELECT count(*) FROM steps AS s WHERE s.run_id = p.run_id AND s.rank > 0) AS failed,
    (SELECT count(*) FROM acequia.audit_events AS e WHERE e.run_id = p.run_id AND e.kind <> 'accepted') AS events,
    (SELECT max(s.finished) FROM steps AS s WHERE s.run_id = p.run_id) AS finished_at,
    (
        SELECT array_agg(m.uri ORDER BY m.finished, m.uri) FROM models AS m WHERE m.run_id = p.run_id
    ) AS models,
    (
        SELECT a.record -> 'metrics'
        FROM at_models AS a
        WHERE a.run_id = p.run_id AND a.rank = 0
        ORDER BY a.finished DESC, a.uri DESC LIMIT 1
    ) AS metrics,
    (
        SELECT array_agg(DISTINCT s.event_id) FROM steps AS s WHERE s.run_id = p.run_id AND s.event_id IS NOT NULL
    ) AS event_ids
FROM picked AS p;
