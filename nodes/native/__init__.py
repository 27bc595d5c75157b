"""VideoCrafter2 and dynamic strength as objects of the host's own types."""
