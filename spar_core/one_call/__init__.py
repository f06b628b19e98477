"""SPAR in one call: from logged data to a verdict and a policy, without a project, DVC or MLflow."""
