"""How much memory there is, and how much of it work will take."""
