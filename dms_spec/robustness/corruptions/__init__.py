"""Says what can happen to a modality: to its features, or to its raw inputs before any encoder."""
