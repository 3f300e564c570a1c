"""Measures speed and memory, beside what the machine itself can do."""
