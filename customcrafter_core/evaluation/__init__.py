"""Evidence: the paper's metrics, measures of motion, sweeps, the benchmark of the paper's tables, the blind preference page."""
