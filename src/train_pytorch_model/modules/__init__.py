"""The modules that stand before and after Train PyTorch Model in a pipeline."""
