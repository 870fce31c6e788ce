-- The chain begins with 1. Rows that are there already stay, so that /audit/verify names them.
ALTER TABLE acequia.audit_events ADD CONSTRAINT audit_events_count_from_one CHECK (seq > 0) NOT VALID;
