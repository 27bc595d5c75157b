"""The command line: one module for each command, which reads arguments, calls the core and prints."""
