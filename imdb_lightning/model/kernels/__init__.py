"""A cell over whole sequences, from its step: as C, as Triton, or by PyTorch's operations."""
