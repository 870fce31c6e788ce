SELECT act, reason, at, by, died_at FROM acequia.dead_letter_acts WHERE dead_letter = $1 ORDER BY at, id;
