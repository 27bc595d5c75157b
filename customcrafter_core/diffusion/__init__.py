"""Noise schedule, DDIM, guidance and strength schedules."""
