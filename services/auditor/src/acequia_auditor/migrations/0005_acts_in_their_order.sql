-- An act may be told late: what was done last counts, not what was stored last.
CREATE OR REPLACE VIEW acequia.deaths AS
SELECT
    d.*,
    coalesce(
        (
            SELECT a.act
            FROM acequia.dead_letter_acts AS a
            WHERE a.dead_letter = d.id AND a.died_at = d.died_at
            ORDER BY a.at DESC, a.id DESC LIMIT 1
        ),
        'open'
    ) AS state,
    NOT EXISTS (SELECT FROM acequia.dead_letters AS n WHERE n.id = d.id AND n.died_at > d.died_at) AS latest
FROM acequia.dead_letters AS d;
