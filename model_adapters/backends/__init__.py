"""Ways to run a steered request: one file or folder each. May import neither methods nor harnesses."""
