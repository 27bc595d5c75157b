"""What a learned subject is: LoRA factors and the token V*, in one file."""
