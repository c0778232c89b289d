"""How published PyTorch recognisers name their tensors, one file a family."""
