"""The use case, without HTTP: a command in, explanations out."""
