"""The page that a person opens, as static files."""
