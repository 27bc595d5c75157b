"""The default token."""

PLACEHOLDER = "<new1>"
