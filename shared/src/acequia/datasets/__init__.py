"""One file per dataset: its contract, source formats, readers. `load_registry` finds them."""
