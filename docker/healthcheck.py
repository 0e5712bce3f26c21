"""Exit with status 0 if the server of this container is ready; needs only Python."""

import http.client
import os
import sys

connection = http.client.HTTPConnection(
    "127.0.0.1", int(os.environ.get("LEGRAD_PORT", "8000")), timeout=3
)
connection.request("GET", "/health/ready")
sys.exit(connection.getresponse().status != http.client.OK)
