"""What the pipeline tells MLflow: live runs, published results, models, and where all of it lies.

Nothing here reaches an artifact. ``python -m stages.publish`` and :mod:`stages.tracked` are the two ways in.
"""
