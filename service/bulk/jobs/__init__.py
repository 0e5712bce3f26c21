"""Bulk jobs on Ray Data: pictures of any storage in, Parquet out. Only `ray_job.py` imports Ray."""
