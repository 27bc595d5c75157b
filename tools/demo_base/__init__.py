"""How the demo's base model is trained; nothing here is needed to use it."""
