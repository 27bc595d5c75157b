"""CustomCrafter: learn a subject on VideoCrafter2 and make videos of it. Never imports ComfyUI."""
