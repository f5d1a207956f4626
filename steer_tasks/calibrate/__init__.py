"""`steer calibrate`: how much of a steering a budget allows, found on questions that are not the test."""
