"""Agreement, comparison and evaluation of readers and models, from saved labels and predictions alone.

Reads tables (:mod:`training.evaluation.reading`), never images of training runs or networks. Point estimates come
from scikit-learn and SciPy; intervals from resampled patients (:mod:`training.evaluation.resampling`).
"""
