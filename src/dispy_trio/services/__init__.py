"""Long-running programs: wiring and life cycle, no decisions."""
