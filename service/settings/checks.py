"""Checks of the ``LEGRAD_*`` environment variables: each alone, and several together."""

import os
import re
from typing import Self

from pydantic import SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from legrad_engine.errors import InvalidOptionError
from service.settings.browser_urls import check_origins, read_prefix
from service.settings.ip_addresses import trusted_networks
from service.settings.keys import read_keys
from service.settings.url_policy import UrlRules
from service.settings.variables import Variables

# Platforms such as Cloud Run, Heroku and Render choose the port and say it in this variable.
_PLATFORM_PORT = "PORT"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LINE_BREAKS = {"\r": "a carriage return", "\n": "a line break", "\t": "a tab"}

# In these, entries may stand on lines of their own.
_LISTS = ("models", "presence", "url_hosts", "trusted_proxies", "cors_origins")
_PORTS = ("port", "admin_port")


class CheckedVariables(Variables):
    """The variables with their checks.

    An empty variable counts as unset, because compose files and manifests pass unset ones so.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the most important one first."""
        port = os.environ.get(_PLATFORM_PORT, "").strip()
        platform = InitSettingsSource(settings_cls, {"port": port} if port else {})
        return init_settings, env_settings, platform

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: object, info: ValidationInfo) -> object:
        name = info.field_name
        if not isinstance(value, str) or name is None:
            return value
        if not value.strip():
            return cls.model_fields[name].get_default()
        if name == "api_keys":
            # JSON, which may have any white space.
            return value
        _refuse_control_characters(value, allowed="\n\t" if name in _LISTS else "")
        if name in _LISTS:
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if name in _PORTS and "://" in value:
            raise ValueError(
                "write a port number. Docker links and Kubernetes set such a variable for a "
                "service of this name: turn that off with enableServiceLinks: false in the pod, or "
                "set the variable to the port"
            )
        return value.strip()

    @field_validator("host", "admin_host")
    @classmethod
    def _check_host(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[\s/]|^[^:]*:[^:]*$", value):
            raise ValueError(
                "write a host name or an address alone, such as 127.0.0.1, 0.0.0.0 for every IPv4 "
                "address or :: for every address; the port is a setting of its own"
            )
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        return read_prefix(value)

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        UrlRules(value, private_addresses=False)
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                read_keys(value.get_secret_value(), "the setting")
            except InvalidOptionError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        trusted_networks(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_origins(value)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.api_keys is not None and self.api_keys_file is not None:
            raise ValueError("Set LEGRAD_API_KEYS or LEGRAD_API_KEYS_FILE, not both.")
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("LEGRAD_ADMIN_HOST needs LEGRAD_ADMIN_PORT.")
        if self.admin_port and self.admin_port == self.port and self.uds is None:
            raise ValueError("LEGRAD_ADMIN_PORT must be another port than LEGRAD_PORT.")
        return self


def _refuse_control_characters(value: str, allowed: str) -> None:
    found = next((each for each in _CONTROL.findall(value) if each not in allowed), None)
    if found is not None:
        name = _LINE_BREAKS.get(found, "a control character")
        advice = "save the file it comes from with Unix line ends" if found == "\r" else "remove it"
        raise ValueError(f"it contains {name}: {advice}")
