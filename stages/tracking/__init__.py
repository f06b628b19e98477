"""What the pipeline tells MLflow: live runs, published results, models, and where all of it lies.

Nothing here reaches an artifact. The two ways in are ``python -m stages.tracking.publish`` and
:mod:`stages.tracking.tracked`.
"""
