SELECT id, state FROM acequia.deaths WHERE latest AND id = ANY($1::uuid[]);
