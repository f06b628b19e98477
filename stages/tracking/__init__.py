"""Everything that the pipeline sends to MLflow: live runs, published results and models.

No artifact depends on this package. Its two entry points are ``python -m stages.tracking.publish`` and
:mod:`stages.tracking.tracked`.
"""
