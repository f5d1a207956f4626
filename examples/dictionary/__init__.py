"""How the demo dictionary was made, step by step; `examples/train_dictionary.py` runs it."""
