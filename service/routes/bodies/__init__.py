"""How a request body is read: JSON, multipart, validation, targets."""
