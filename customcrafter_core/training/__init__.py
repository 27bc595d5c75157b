"""Learning a subject from photos."""
