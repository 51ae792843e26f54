"""Networks: descriptions, weights, and the head for the wanted number of classes."""
