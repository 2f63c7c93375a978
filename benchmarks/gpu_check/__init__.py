"""`python -m benchmarks.gpu_check` (`make gpu-check`): all that a machine with a card can tell."""
