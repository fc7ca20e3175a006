"""From raw images, texts and sounds to a table of embeddings, by encoders that are installed."""
