"""Pipelines of Azure Machine Learning, run on this machine from the very YAML that the cloud gets."""
