"""Programs for work on the project, called by its Makefile."""
