"""Files that a trained model is served with. They are copied into the model and run without this package."""
