INSERT INTO acequia.migrations (name) VALUES ($1);
