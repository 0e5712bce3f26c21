"""Bulk explanation without a server: folders of pictures in; overlays, maps and a manifest out."""
