"""The figures of the paper, drawn from a study's results."""
