"""Training: states, steps, devices, checkpoints and the loop."""
