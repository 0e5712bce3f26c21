"""Pictures without torch: decoding, geometry, rendering, regions, statistics."""
