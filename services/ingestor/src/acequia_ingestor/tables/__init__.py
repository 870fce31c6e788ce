"""Tables of a transactional database: their changes in, RAW parts and each load's state out."""
