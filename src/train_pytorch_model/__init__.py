"""Train PyTorch Model: an image classifier from three typed ports and five parameters."""

__version__ = "0.2.0"
