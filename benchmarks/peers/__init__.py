"""The same engine behind other servers, written as in their introductory documentation."""
