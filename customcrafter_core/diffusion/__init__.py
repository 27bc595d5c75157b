"""Schedule, DDIM, guidance, strength: the mathematics of sampling, on plain tensors."""
