"""Decisions: events in, commands out. No I/O, no clock, no random number, no thread."""
