"""Imports the modules of forked programs, and keeps them out of the garbage collector's way."""

from importlib import import_module

from legrad_engine.importing import frozen_after
from tests.support.forked_program import PRELOADED

with frozen_after():
    for _name in PRELOADED:
        import_module(_name)
