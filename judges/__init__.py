"""Turns a completion into scores. May import model_adapters; no harness and no steer_tasks."""
