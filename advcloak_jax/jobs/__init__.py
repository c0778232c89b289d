"""The commands: each puts data, networks, steps and measures together."""
