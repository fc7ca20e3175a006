"""Learning from tables of embeddings: tables, calibration, typicality, prediction, on the host."""
