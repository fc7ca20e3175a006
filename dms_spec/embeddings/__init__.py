"""Holds tables of embeddings, calibration, typicality and prediction, on the host."""
