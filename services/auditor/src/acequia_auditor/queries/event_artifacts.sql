SELECT layer, uri
FROM acequia.event_objects
WHERE event_id = ANY($1::uuid[]) AND role = 'output' AND layer IS NOT NULL AND layer <> 'ledger'
GROUP BY layer, uri
ORDER BY layer, uri
LIMIT $2;
