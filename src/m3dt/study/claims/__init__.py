"""The paper's claims: our numbers, and whether each claim holds."""
