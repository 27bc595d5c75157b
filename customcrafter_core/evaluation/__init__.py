"""Measures of videos: the paper's metrics, and motion without any weights."""
