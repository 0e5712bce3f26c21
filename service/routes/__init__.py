"""The HTTP routes: thin, and with no decision of their own."""
