"""The bundled pair: its data, its training and its evaluation."""
