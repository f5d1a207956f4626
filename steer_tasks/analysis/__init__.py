"""From logs to a verdict: records, statistics, figures, report. Arithmetic on records; no model, no harness."""
