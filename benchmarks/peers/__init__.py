"""The same engine behind other servers, as one would write them from their own first pages."""
