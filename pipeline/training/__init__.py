"""The training run: the loop, what it is made of, and what it says."""
