-- A while of business. Settings: acequia.changes (about how many rows), acequia.seed, acequia.at (now).

-- the rows whose number the seed draws: a share of all, or all where there are not that many
CREATE FUNCTION pg_temp.picked(what text, key text, share double precision) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT ('x' || substr(md5(current_setting('acequia.seed') || what || key), 1, 8))::bit(32)::bigint / 4294967296.0 < share
$$;
CREATE FUNCTION pg_temp.share(part double precision, rows bigint) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT current_setting('acequia.changes')::double precision * part / greatest(rows, 1)
$$;

UPDATE public.accounts
SET balance = balance + 1, updated_at = current_setting('acequia.at')::timestamptz
WHERE pg_temp.picked('balance', account_id::text, pg_temp.share(0.3, (SELECT count(*) FROM public.accounts)));

UPDATE public.accounts
SET deleted_at = current_setting('acequia.at')::timestamptz, updated_at = current_setting('acequia.at')::timestamptz
WHERE pg_temp.picked('gone', account_id::text, pg_temp.share(0.02, (SELECT count(*) FROM public.accounts)));

INSERT INTO public.accounts (email, name, country, segment, balance, created_at, updated_at)
SELECT
    'new' || n || '-' || current_setting('acequia.seed') || '@example.com', 'New ' || n, 'MX', 'consumer', 0,
    current_setting('acequia.at')::timestamptz, current_setting('acequia.at')::timestamptz
FROM generate_series(1, ceil(current_setting('acequia.changes')::double precision * 0.1)::integer) AS n;

UPDATE public.account_subscriptions
SET status = 'active', updated_at = current_setting('acequia.at')::timestamptz
WHERE
    pg_temp.picked(
        'status',
        account_subscription_id::text,
        pg_temp.share(0.2, (SELECT count(*) FROM public.account_subscriptions))
    );

UPDATE public.payments
SET status = 'refunded', paid_at = coalesce(paid_at, updated_at), updated_at = current_setting('acequia.at')::timestamptz
WHERE pg_temp.picked('refund', payment_id::text, pg_temp.share(0.2, (SELECT count(*) FROM public.payments)));

DELETE FROM public.payments
WHERE pg_temp.picked('removed', payment_id::text, pg_temp.share(0.05, (SELECT count(*) FROM public.payments)));

UPDATE public.content_attributes
SET value = '"changed"', updated_at = nullif(current_setting('acequia.at')::timestamptz, updated_at)
WHERE
    pg_temp.picked(
        'attribute', content_id || name, pg_temp.share(0.13, (SELECT count(*) FROM public.content_attributes))
    );
