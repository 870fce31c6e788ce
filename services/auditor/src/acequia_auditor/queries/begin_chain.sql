INSERT INTO acequia.chains (id) VALUES ($1);
