-- What was asked of each load of a table, and what came of it: one row per run, dataset and check. It follows from the
-- ingestor's outcomes, so that a rebuild brings it back. found and expected are in the check's own unit: rows, a share,
-- hours (freshness).
CREATE VIEW acequia.check_results AS
SELECT
    e.run_id,
    t.dataset,
    (t.told ->> 'load')::bigint AS load,
    t.told ->> 'kind' AS kind,
    c.result ->> 'name' AS check_name,
    c.result ->> 'on_failure' AS on_failure,
    (c.result ->> 'passed')::boolean AS passed,
    (c.result ->> 'found')::double precision AS found,
    (c.result ->> 'expected')::double precision AS expected,
    e.finished AS checked_at
FROM acequia.audit_events AS e
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(e.record #> '{parameters,tables}')
        WHEN 'object' THEN e.record #> '{parameters,tables}'
        ELSE '{}'
    END
) AS t (dataset, told)
CROSS JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(t.told -> 'checks') WHEN 'array' THEN t.told -> 'checks' ELSE '[]' END
) AS c (result)
WHERE e.stage = 'ingestor' AND e.kind = 'outcome';
