"""Make a video: the paper's Algorithm 1 from prompt to latent, and several runs from one noise."""
