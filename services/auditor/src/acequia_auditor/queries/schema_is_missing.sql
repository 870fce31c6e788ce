SELECT to_regclass('acequia.migrations') IS NULL;
