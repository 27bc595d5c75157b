"""When do dynamic weights beat every constant one? A study with exact denoisers instead of a network."""
