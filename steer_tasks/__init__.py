"""What is asked of a steered model, and what the answers show. May import judges and model_adapters."""
