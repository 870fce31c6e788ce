SELECT acequia.tell_runs($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]);
