"""Published weights: files read without running anything, and their tensors put into our networks."""

from advcloak_jax.recognizers.weights.reader import read_weights

__all__ = ["read_weights"]
