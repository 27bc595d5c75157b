"""A trained subject: LoRA factors and the token V*, in one file."""
