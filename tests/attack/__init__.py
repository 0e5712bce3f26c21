"""Attacks on a server of its own on the loopback interface: `make attack`."""
