"""Where rows come from that no file holds."""
