"""From a description and weights to a network with the right head."""
