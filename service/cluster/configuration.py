"""Checks of a configuration file of Ray Serve, which itself ignores misspelt keys."""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from legrad_engine.errors import InvalidOptionError
from service.cluster.values import (
    IMPORT_PATH,
    MIDDLEWARE_PATH,
    NAME,
    PROXY_CALLBACK,
    check_deployment,
    check_mode,
    check_settings,
    ineffective_fields,
    most_ongoing_requests,
    shutdown_seconds,
)
from service.settings import Settings, unknown_variables
from service.settings.mistakes import in_lines
from service.settings.native_libraries import NATIVE_VARIABLES

_PREFIX = "LEGRAD_"


def mistakes_in(file: Path) -> list[str]:
    """Return a line for each mistake in a configuration file; none if it can be deployed.

    Raises:
        InvalidOptionError: it cannot be read, is not YAML, or is a manifest without configuration.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidOptionError(f"{file}: it cannot be read: {error}") from error
    if isinstance(content, dict) and content.get("kind") == "RayService":
        content = _configuration_in(content, file)
    return mistakes(content)


def _configuration_in(manifest: Mapping[str, Any], file: Path) -> object:
    """Return the configuration that a manifest of KubeRay holds as a text."""
    specification = manifest.get("spec")
    text = specification.get("serveConfigV2") if isinstance(specification, Mapping) else None
    if not isinstance(text, str):
        raise InvalidOptionError(
            f"{file}: spec.serveConfigV2 should hold the configuration of Ray Serve as a text, "
            "after `serveConfigV2: |`."
        )
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidOptionError(f"{file}: spec.serveConfigV2 is no YAML: {error}") from error


def mistakes(content: object) -> list[str]:
    """Return a line for each mistake in the content of a configuration file."""
    if not isinstance(content, dict):
        return ["It is no configuration of Ray Serve: that begins with `applications:`."]
    found = list(_unknown_keys(ServeDeploySchema, content, ""))
    try:
        schema = ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        return found + [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        ]
    ours = [each for each in schema.applications if each.import_path == IMPORT_PATH]
    if not ours:
        found.append(f"applications: none has the import_path {IMPORT_PATH}.")
    controller = (schema.controller_options and schema.controller_options.runtime_env) or {}
    if _env_vars(controller).get(PROXY_CALLBACK) != MIDDLEWARE_PATH:
        found.append(
            f"controller_options.runtime_env.env_vars.{PROXY_CALLBACK}: write {MIDDLEWARE_PATH}; "
            "without it, callers of a lost replica get a bare error."
        )
    for application in ours:
        found += _of_application(application, schema.http_options.request_timeout_s)
    return found


def _of_application(application: ServeApplicationSchema, timeout: float | None) -> Iterator[str]:
    """Yield the mistakes of one application of this service."""
    if application.args:
        yield "args: this application takes none; settings are environment variables."
    named = [each for each in application.deployments if each.name == NAME]
    deployment = named[0] if named else None
    if named[1:]:
        yield f"deployments: {NAME!r} is there {len(named)} times; write all options in one entry."
    yield from (
        f"deployments: {each.name!r} does not exist; the only one is {NAME!r}."
        for each in application.deployments
        if each.name != NAME
    )
    variables = _variables(application, deployment)
    for name, similar in unknown_variables(variables).items():
        advice = f"; is it {similar}?" if similar else "."
        yield f"env_vars.{name}: there is no such setting{advice}"
    for name in NATIVE_VARIABLES:
        if name not in variables and deployment is not None and _replaces_options(deployment):
            yield (
                f"env_vars.{name}: write {NATIVE_VARIABLES[name]!r}; ray_actor_options of the file "
                "replace those of the application, which has it."
            )
    for name in ineffective_fields(_fields(variables)):
        yield f"env_vars.{name}: it has no effect; Ray Serve owns the sockets, see http_options."
    try:
        settings = _settings(variables)
        check_settings(settings)
        check_mode(variables)
    except ValidationError as error:
        yield from in_lines(error, {})
        return
    except InvalidOptionError as error:
        yield str(error)
        return
    if timeout is None or timeout <= settings.request_timeout_seconds:
        yield (
            "http_options.request_timeout_s: make it longer than "
            f"LEGRAD_REQUEST_TIMEOUT_SECONDS={settings.request_timeout_seconds:g}, so that callers "
            "see the service's own 504, and a hung replica does not hold them for ever."
        )
    if deployment is not None:
        yield from _of_deployment(deployment, settings)


def _of_deployment(deployment: DeploymentSchema, settings: Settings) -> Iterator[str]:
    """Yield the mistakes of the deployment's options."""
    given = deployment.model_dump(exclude_unset=True)
    try:
        check_deployment(
            settings,
            given.get("max_ongoing_requests", most_ongoing_requests(settings)),
            given.get("graceful_shutdown_timeout_s", shutdown_seconds(settings)),
        )
    except InvalidOptionError as error:
        yield str(error)
    if given.get("autoscaling_config"):
        yield from _of_autoscaling(deployment, given["autoscaling_config"], settings)


def _of_autoscaling(
    deployment: DeploymentSchema, given: Mapping[str, Any], settings: Settings
) -> Iterator[str]:
    """Yield the mistakes of the deployment's autoscaling, which Ray's schema takes unread."""
    defaults = {}
    if deployment.num_replicas == "auto":
        defaults = AutoscalingConfig.default().model_dump(exclude_unset=True)
    try:
        scaling = AutoscalingConfig.model_validate(defaults | dict(given))
    except ValidationError as error:
        for each in error.errors():
            yield f"{'.'.join(('autoscaling_config', *map(str, each['loc'])))}: {each['msg']}"
        return
    target = scaling.target_ongoing_requests
    if target < settings.cpu_batch_images:
        yield (
            f"autoscaling_config.target_ongoing_requests={target:g}: replicas would be added "
            "before batches are full; write at least LEGRAD_MAX_BATCH_IMAGES="
            f"{settings.cpu_batch_images}, better twice that."
        )


def _variables(
    application: ServeApplicationSchema, deployment: DeploymentSchema | None
) -> dict[str, str]:
    """Return the environment variables of a replica, as far as the file sets them."""
    variables = _env_vars(application.runtime_env)
    if deployment is not None and _replaces_options(deployment):
        variables |= _env_vars(deployment.ray_actor_options.runtime_env)
    return variables


def _env_vars(runtime_env: Mapping[str, Any]) -> dict[str, str]:
    """Return environment variables, those of a wrong type as the texts that were meant."""
    found = runtime_env.get("env_vars")
    return {
        str(name): value if isinstance(value, str) else _as_text(value)
        for name, value in (found.items() if isinstance(found, Mapping) else ())
    }


def _as_text(value: object) -> str:
    return "" if value is None else json.dumps(value, default=str)


def _replaces_options(deployment: DeploymentSchema) -> bool:
    return "ray_actor_options" in deployment.model_fields_set


def _fields(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the settings among variables, by the names of their fields."""
    fields = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(_PREFIX)
    }
    return {name: value for name, value in fields.items() if name in Settings.model_fields}


def _settings(variables: Mapping[str, str]) -> Settings:
    """Return the settings of variables, without those of this process."""
    defaults = {name: field.get_default() for name, field in Settings.model_fields.items()}
    return Settings.model_validate(defaults | _fields(variables))


def _unknown_keys(model: type[BaseModel], content: object, path: str) -> Iterator[str]:
    """Yield a line for each key that a model of Ray does not have, at any depth."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        place = f"{path}.{key}" if path else str(key)
        field = model.model_fields.get(key)
        if field is None:
            yield _unknown(place, str(key), model.model_fields)
        elif key == "runtime_env":
            yield from _of_runtime_env(value, place)
        else:
            for nested in _models(field.annotation):
                for number, item in enumerate(value if isinstance(value, list) else [value]):
                    inside = f"{place}[{number}]" if isinstance(value, list) else place
                    yield from _unknown_keys(nested, item, inside)


def _of_runtime_env(content: object, place: str) -> Iterator[str]:
    """Yield the mistakes of a runtime environment, which Ray finds only when it deploys."""
    if not isinstance(content, Mapping):
        return
    known = sorted(RuntimeEnv.known_fields)
    yield from (
        _unknown(f"{place}.{each}", str(each), known) for each in content if each not in known
    )
    variables = content.get("env_vars", {})
    if not isinstance(variables, Mapping):
        yield f"{place}.env_vars: write names and values, or leave it out."
        return
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            yield (
                f"{place}.env_vars.{name}: names and values should be texts; write "
                f'{name}: "{value if isinstance(value, str) else _as_text(value)}".'
            )


def _unknown(place: str, key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    similar = next(iter(get_close_matches(key, known, 1, 0.6)), None)
    advice = f"; is it {similar}?" if similar else "."
    return f"{place}: Ray Serve has no such key, and would ignore it{advice}"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list):
        for part in get_args(annotation):
            yield from _models(part)
