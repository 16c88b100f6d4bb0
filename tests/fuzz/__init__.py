"""Strategies that draw well-formed but wrong inputs, and the invariants that hold for all of them.

`counts.py` says how many cases each has. `invariants.py` and `checks.py` say what must hold. Every
other file draws one kind of input. `test_fuzz.py` gives them to commands.
"""
