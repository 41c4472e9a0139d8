"""Images in and out of arrays, and how low-resolution ones are made."""
