-- What the predecessors' table said, over the ingestor's outcomes: one row per RAW object, or one per source that gave
-- none (REJECTED, SAME_CONTENT). estado keeps our status values. ruta_minio is bucket/key.
--
-- Its name is another than the one in public: for a user named acequia this schema comes first in the search path, and
-- would hide a table of the predecessors'.
CREATE VIEW acequia.ingestions_as_before AS
SELECT
    coalesce(o.id, e.id) AS id,
    e.finished AS timestamp_ingesta,
    CASE
        WHEN o.uri IS NOT NULL THEN regexp_replace(o.uri, '^.*/', '')
        ELSE coalesce(r.source, e.stem, e.run_id::text)
    END AS nombre_archivo,
    regexp_replace(coalesce(o.uri, i.uri, m.uri), '^s3://', '') AS ruta_minio,
    CASE WHEN o.uri IS NOT NULL THEN coalesce(o.rows, e.rows_out) ELSE e.rows_in END AS num_registros,
    e.status AS estado
FROM acequia.audit_events AS e
LEFT JOIN acequia.event_objects AS o
    ON o.event_id = e.event_id AND o.role = 'output' AND o.layer = 'raw' AND e.status = 'SUCCESS'
LEFT JOIN acequia.event_objects AS i ON i.event_id = e.event_id AND i.role = 'input' AND i.n = 0
LEFT JOIN acequia.event_objects AS m ON m.event_id = e.event_id AND m.role = 'output' AND m.n = 0
LEFT JOIN acequia.runs AS r ON r.run_id = e.run_id
WHERE e.stage = 'ingestor' AND e.kind = 'outcome';
