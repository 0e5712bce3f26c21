"""What the process imports from which :mod:`tests.support.forked_program` forks others."""

from importlib import import_module

from service.importing import frozen_after

with frozen_after():
    for _name in ("service.app", "service.cli", "service.server.process"):
        import_module(_name)
