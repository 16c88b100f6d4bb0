"""The figures of the paper, drawn from a study's results; none of them computes what it shows."""
