"""From prompt to latent: the paper's Algorithm 1, and several runs from one noise."""
