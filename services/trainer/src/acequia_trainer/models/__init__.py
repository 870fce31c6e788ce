"""The detectors that can be trained."""
