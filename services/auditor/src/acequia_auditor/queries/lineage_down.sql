-- What lies after the objects ($1 uris, $2 etags): the nearest first. UNION drops what was seen at the same
-- depth, and $3 bounds the depth, so that a cycle ends. $4 bounds the answer.
WITH RECURSIVE reached (uri, etag, depth) AS (
    SELECT uri, etag, 0 FROM unnest($1::text[], $2::text[]) AS s (uri, etag)
    UNION
    SELECT l.output_uri, l.output_etag, r.depth + 1
    FROM reached AS r
    JOIN acequia.lineage_edges AS l
        ON l.input_uri = r.uri AND (l.input_etag = r.etag OR '' IN (l.input_etag, r.etag))
    WHERE r.depth < $3
)
SELECT uri, etag, depth FROM reached LIMIT $4;
