"""Reading of request bodies: JSON, multipart, validation, targets."""
