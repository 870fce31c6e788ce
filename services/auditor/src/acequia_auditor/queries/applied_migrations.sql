SELECT name FROM acequia.migrations;
