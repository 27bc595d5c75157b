"""Questions that take many videos: weight sweep, motion onset, the benchmark of the paper's tables, the blind preference study."""
