"""Measures: the paper's metrics, and motion without any weights."""
