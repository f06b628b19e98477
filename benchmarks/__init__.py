"""What was measured, how, and the results. Each module is a command: `python -m benchmarks.<name>`."""
