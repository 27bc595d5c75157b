"""What the core writes for people: videos, contact sheets, settings."""
