"""The text side of a similarity: the contribution of each word of a prompt."""
