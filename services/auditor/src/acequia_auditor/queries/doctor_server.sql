SELECT current_setting('server_version') AS version,
       current_setting('server_encoding') AS encoding,
       clock_timestamp() AS now;
