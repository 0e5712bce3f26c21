"""Exit with status 0 if the server of this container is ready; needs only Python."""

import http.client
import os
import socket
import sys

port = os.environ.get("LEGRAD_PORT") or os.environ.get("PORT") or "8000"
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3)
if path := os.environ.get("LEGRAD_UDS"):
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(3)
    connection.sock.connect(path)
connection.request("GET", "/health/ready")
sys.exit(connection.getresponse().status != http.client.OK)
