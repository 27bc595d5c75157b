"""VideoCrafter2 on diffusers and transformers: reading and writing its checkpoints."""
