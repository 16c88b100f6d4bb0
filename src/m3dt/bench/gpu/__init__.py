"""What `m3dt bench --gpu` checks and measures; `gpu_run.py` runs it, `parts.py` lists it."""
