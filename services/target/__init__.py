"""The large model whose accuracy is kept."""
