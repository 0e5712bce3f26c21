"""What surrounds every route: request records, access, overload refusal, problems."""
