"""Pictures from addresses: which may be fetched, and how."""
