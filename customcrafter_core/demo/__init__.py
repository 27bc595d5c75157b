"""The demo: a synthetic world of moving shapes and a small base model of VideoCrafter2's class, trained on it."""
