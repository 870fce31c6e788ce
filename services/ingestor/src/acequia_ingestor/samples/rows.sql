-- Rows of the sample database. Settings: acequia.accounts, acequia.seed, acequia.at (the time of the newest change).

-- a number from 0 to below 1 that follows from the seed, what it is for, and which
CREATE FUNCTION pg_temp.drawn(what text, n bigint) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT ('x' || substr(md5(current_setting('acequia.seed') || what || n), 1, 8))::bit(32)::bigint / 4294967296.0
$$;
CREATE FUNCTION pg_temp.one_of(options text[], what text, n bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT options[1 + floor(pg_temp.drawn(what, n) * cardinality(options))::integer]
$$;
CREATE FUNCTION pg_temp.moment(what text, n bigint, days integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT current_setting('acequia.at')::timestamptz
        - CASE WHEN n = 1 THEN 0 ELSE pg_temp.drawn(what, n) * days END * interval '1 day'
$$;

INSERT INTO public.subscriptions
SELECT
    n,
    'PLAN_' || n,
    (ARRAY['Básico', 'Familiar', 'Estudiante', 'Profesional', 'Empresa', 'Campus'])[n],
    (ARRAY['monthly', 'monthly', 'quarterly', 'yearly', 'yearly', 'yearly'])[n]::billing_period,
    (ARRAY[99.0, 189.5, 149.25, 1990.0, 9900.9999, 49000.0001])[n],
    'MXN',
    jsonb_build_object('trial_days', n * 7, 'auto_renew', n % 2 = 0),
    n < 6,
    current_setting('acequia.at')::timestamptz - interval '400 days'
FROM generate_series(1, 6) AS n;

INSERT INTO public.features
SELECT
    n,
    'FEATURE_' || n,
    (ARRAY['limit', 'switch', 'service'])[1 + n % 3]::feature_kind,
    CASE WHEN n % 4 > 0 THEN 'Feature number ' || n END,
    CASE WHEN n % 5 > 0 THEN (ARRAY['web', 'ios', 'android', 'tv'])[1 : n % 5] ELSE '{}' END,
    CASE WHEN n % 2 = 0 THEN jsonb_build_object('value', n, 'unit', 'GiB') END
FROM generate_series(1, 12) AS n;

INSERT INTO public.subscription_features
SELECT s, f, CASE WHEN f % 3 = 1 THEN (s * f)::numeric / 7 END, (s + f) % 5 > 0
FROM generate_series(1, 6) AS s, generate_series(1, 12) AS f
WHERE f <= s * 2;

INSERT INTO public.accounts
SELECT
    n,
    'person' || n || '@example.com',
    pg_temp.one_of(ARRAY['Ana', 'Luis', 'María', 'José', 'Zoë', '李雷'], 'name', n) || ' ' || n,
    pg_temp.one_of(ARRAY['MX', 'ES', 'AR', 'CO', NULL], 'country', n),
    pg_temp.one_of(ARRAY['consumer', 'consumer', 'business', 'education'], 'segment', n)::account_segment,
    CASE WHEN n % 9 > 0 THEN round((pg_temp.drawn('balance', n) * 10000 - 2000)::numeric, 2) END,
    CASE WHEN n % 7 > 0 THEN jsonb_build_object('theme', CASE n % 2 WHEN 0 THEN 'dark' ELSE 'light' END, 'limit', n) END,
    CASE n % 3 WHEN 0 THEN ARRAY['new', 'vip "gold"'] WHEN 1 THEN '{}'::text[] END,
    CASE WHEN n % 4 > 0 THEN sha256(n::text::bytea) END,
    CASE WHEN n % 6 > 0 THEN date '1950-01-01' + (pg_temp.drawn('birth', n) * 20000)::integer END,
    pg_temp.moment('created', n, 90) - interval '300 days',
    pg_temp.moment('updated', n, 90),
    CASE WHEN n % 40 = 0 THEN pg_temp.moment('updated', n, 90) END
FROM generate_series(1, current_setting('acequia.accounts')::bigint) AS n;

INSERT INTO public.account_subscriptions
SELECT
    md5('subscription' || n)::uuid,
    1 + n % current_setting('acequia.accounts')::bigint,
    1 + floor(pg_temp.drawn('plan', n) * 6)::integer,
    pg_temp.one_of(ARRAY['trial', 'active', 'active', 'active', 'paused', 'cancelled'], 'status', n)::subscription_status,
    CASE WHEN n % 5 = 0 THEN 1 + (n % 20)::integer END,
    CASE WHEN n % 3 = 0 THEN round(pg_temp.drawn('discount', n)::numeric / 2, 4) END,
    pg_temp.moment('started', n, 300) - interval '100 days',
    CASE n % 11 WHEN 0 THEN 'infinity'::timestamptz WHEN 1 THEN pg_temp.moment('ends', n, 10) END,
    pg_temp.moment('subscription', n, 90)
FROM generate_series(1, current_setting('acequia.accounts')::bigint * 3 / 2) AS n;

INSERT INTO public.contents
SELECT
    n,
    'Content ' || n || E'\nwith "quotes", commas and ñandú',
    pg_temp.one_of(ARRAY['film', 'series', 'article', 'audio'], 'kind', n)::content_kind,
    CASE WHEN n % 8 > 0 THEN (ARRAY['es', 'en', NULL, 'pt'])[1 : (n % 4 + 1)::integer] END,
    CASE WHEN n % 10 > 0 THEN (pg_temp.drawn('seconds', n) * 9000)::integer END,
    CASE WHEN n % 13 > 0 THEN pg_temp.drawn('rating', n) * 10 END,
    CASE WHEN n % 5 = 0 THEN decode(repeat(md5(n::text), 4), 'hex') END,
    date '2015-01-01' + (pg_temp.drawn('released', n) * 4000)::integer,
    pg_temp.moment('content', n, 90)
FROM generate_series(1, current_setting('acequia.accounts')::bigint / 4 + 10) AS n;

INSERT INTO public.content_attributes
SELECT
    c.content_id,
    a.name,
    CASE a.n WHEN 1 THEN to_jsonb(c.seconds) WHEN 2 THEN to_jsonb(c.title) WHEN 3 THEN '{"deep": [1, 2.50, null]}' END,
    CASE WHEN c.content_id % 3 > 0 THEN ARRAY[pg_temp.drawn(a.name, c.content_id), NULL, 1e-9] END,
    CASE WHEN (c.content_id + a.n) % 10 > 0 THEN pg_temp.moment(a.name, c.content_id, 90) END
FROM public.contents AS c, (VALUES (1, 'duration'), (2, 'title/es'), (3, 'origin'), (4, 'Ñ')) AS a (n, name);

INSERT INTO public.payments
SELECT
    n,
    md5('subscription' || 1 + n % (current_setting('acequia.accounts')::bigint * 3 / 2))::uuid,
    round((pg_temp.drawn('amount', n) * 3000)::numeric, 2),
    pg_temp.one_of(ARRAY['MXN', 'MXN', 'USD', 'EUR'], 'currency', n),
    pg_temp.one_of(ARRAY['card', 'card', 'transfer', 'wallet', 'cash'], 'method', n)::payment_method,
    pg_temp.one_of(ARRAY['paid', 'paid', 'paid', 'pending', 'failed', 'refunded'], 'paid', n)::payment_status,
    CASE WHEN n % 2 = 0 THEN jsonb_build_object('bank', n % 12, 'note', 'él dijo "sí"') END,
    CASE WHEN n % 6 = 0 THEN decode(md5('receipt' || n), 'hex') END,
    CASE
        WHEN pg_temp.one_of(ARRAY['paid', 'paid', 'paid', 'pending', 'failed', 'refunded'], 'paid', n)
            IN ('paid', 'refunded')
            THEN pg_temp.moment('paid', n, 90)
    END,
    pg_temp.moment('payment', n, 90)
FROM generate_series(1, current_setting('acequia.accounts')::bigint * 5) AS n;

SELECT setval(pg_get_serial_sequence('public.accounts', 'account_id'), max(account_id)) FROM public.accounts;
SELECT setval(pg_get_serial_sequence('public.payments', 'payment_id'), max(payment_id)) FROM public.payments;
