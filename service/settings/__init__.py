"""Settings: the environment in, small frozen values out."""

from service.settings.environment import Settings, unknown_variables

__all__ = ["Settings", "unknown_variables"]
