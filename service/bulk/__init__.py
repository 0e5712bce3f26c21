"""Explaining pictures without a server: folders in, overlays, maps and a manifest out."""
