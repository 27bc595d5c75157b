"""Memory that is free and that is needed: counted before work begins."""
