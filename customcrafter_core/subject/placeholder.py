"""How a learned token is written in prompts unless someone says otherwise."""

PLACEHOLDER = "<new1>"
