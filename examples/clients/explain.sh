#!/bin/sh
# Explain a picture with a running server and print the overlay: explain.sh PICTURE PROMPT > overlay.jpg
set -eu
[ $# -eq 2 ] || { echo "usage: explain.sh PICTURE PROMPT > overlay.jpg" >&2; exit 2; }
curl --fail-with-body --silent --show-error "${LEGRAD_URL:-http://localhost:8000}/explain" \
  -F "image=@$1" -F "prompts=$2" -H 'Accept: image/jpeg'
