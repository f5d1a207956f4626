"""Dictionaries of features: directions of a model's residual stream with labels, and edits by index made vectors.

Importing this brings in numpy only; torch and scikit-learn come with the function that needs them.
"""

from model_adapters.features.dictionary import Dictionary, Rows, open_dictionary
from model_adapters.features.labels import Labels, read_labels
from model_adapters.features.resolution import resolve
from model_adapters.features.units import measured_factor

__all__ = ["Dictionary", "Labels", "Rows", "measured_factor", "open_dictionary", "read_labels", "resolve"]
