"""Measurements against the peers, run by hand; nothing here is imported by the packages."""
