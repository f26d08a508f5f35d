"""A pair of one's own: from two Hugging Face folders to what a cluster serves, checked and tried out."""
