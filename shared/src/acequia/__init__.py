"""Acequia's framework: what a stage is and how it runs. A gate opens when water reaches it."""
