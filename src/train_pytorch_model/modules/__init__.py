"""The modules around Train PyTorch Model in a pipeline, one function per module."""
