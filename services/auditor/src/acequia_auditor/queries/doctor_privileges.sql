-- Whether the role that we log in as could change or remove what was recorded.
SELECT has_table_privilege('acequia.audit_events', 'UPDATE')
    OR has_table_privilege('acequia.audit_events', 'DELETE')
    OR has_table_privilege('acequia.audit_events', 'TRUNCATE') AS may_change;
