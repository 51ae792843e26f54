"""Runs pipelines of Azure Machine Learning on this machine, from the same YAML as in the cloud."""
