-- A file that was taken over and brought content that is here already is listed as its predecessor listed it, too.
CREATE OR REPLACE VIEW acequia.ingestions_as_before AS
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
WHERE
    e.stage = 'ingestor' AND e.kind = 'outcome' AND e.status <> 'IMPORTED'
    AND NOT (e.status = 'SAME_CONTENT' AND e.record #> '{parameters,imported}' IS NOT NULL)
UNION ALL
SELECT
    e.id,
    coalesce((was ->> 'timestamp_ingesta')::timestamptz, e.finished),
    was ->> 'nombre_archivo',
    was ->> 'ruta_minio',
    coalesce((was ->> 'num_registros')::bigint, e.rows_in),
    coalesce(was ->> 'estado', e.status)
FROM acequia.audit_events AS e
CROSS JOIN LATERAL (SELECT e.record #> '{parameters,imported}' AS was) AS told
WHERE
    e.stage = 'ingestor' AND e.kind = 'outcome' AND e.status IN ('IMPORTED', 'SAME_CONTENT')
    AND was IS NOT NULL AND NOT was ? 'listed_as';
