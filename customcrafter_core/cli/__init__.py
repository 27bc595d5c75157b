"""The command line; one module for each command, nothing but reading arguments, calling the core and telling."""
