"""Published weights: files read without running anything, and their tensors put into our networks."""
