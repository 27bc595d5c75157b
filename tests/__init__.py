"""Tests at three levels: without a host, with hosts, with the page."""
