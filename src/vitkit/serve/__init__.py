"""A model behind HTTP: a page to look into it, and an API."""
