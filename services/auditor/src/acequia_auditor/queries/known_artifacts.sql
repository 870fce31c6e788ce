SELECT a.uri, a.etag
FROM acequia.artifacts AS a
JOIN unnest($1::text[], $2::text[]) AS n (uri, etag) ON n.uri = a.uri AND n.etag = a.etag;
