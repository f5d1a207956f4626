"""Makes a model that is steered; knows nothing of tasks or judging. May import neither judges nor steer_tasks."""
