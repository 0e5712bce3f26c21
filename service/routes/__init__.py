"""The HTTP routes: one module for each protocol, without logic of their own."""
