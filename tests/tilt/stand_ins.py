"""Tilt as its Tiltfile sees it: builtins with Tilt's own parameters, that note what they are told and do nothing."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import starlark
import yaml

# Tilt's parameters in Tilt's order (its API reference, 0.37): what is not among them is refused, as Tilt does.
PARAMETERS = {
    "ci_settings": "k8s_grace_period timeout readiness_timeout",
    "cmd_button": "name resource argv text location icon_name icon_svg inputs",
    "config_define_bool": "name args usage",
    "config_define_string": "name args usage",
    "config_define_string_list": "name args usage",
    "config_set_enabled_resources": "resources",
    "docker_build": "ref context build_args dockerfile dockerfile_contents live_update match_in_env_vars ignore only "
    "entrypoint target ssh network secret extra_tag container_args cache_from pull platform extra_hosts",
    "fall_back_on": "files",
    "k8s_resource": "workload new_name port_forwards extra_pod_selectors trigger_mode resource_deps objects auto_init "
    "pod_readiness links labels discovery_strategy",
    "k8s_yaml": "yaml allow_duplicates",
    "link": "url name",
    "local_resource": "name cmd deps trigger_mode resource_deps ignore auto_init serve_cmd cmd_bat serve_cmd_bat "
    "allow_parallel links labels env serve_env readiness_probe dir serve_dir",
    "port_forward": "local_port container_port name link_path host",
    "sync": "local_path remote_path",
    "version_settings": "check_updates constraint",
    "watch_file": "file_path",
}
_NAMESPACES = """
config = struct(
    tilt_subcommand = config_tilt_subcommand,
    define_bool = config_define_bool,
    define_string = config_define_string,
    define_string_list = config_define_string_list,
    parse = config_parse,
    set_enabled_resources = config_set_enabled_resources,
)
"""
_UIBUTTON = 'location = struct(NAV = "nav", RESOURCE = "resource")\n'

Arguments = dict[str, Any]


def documents(text: str) -> list[Any]:
    """The documents of a YAML stream, read by libyaml: the chart's are many."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


@dataclass
class Tilt:
    """One evaluation of the Tiltfile.

    Args:
        root: the directory of the Tiltfile.
        commands: from a program to what stands in for its output.
        subcommand: `up` or `ci`.
        said: the settings behind `--`.
    """

    root: Path
    commands: Mapping[str, Callable[[Sequence[str]], str]]
    subcommand: str = "up"
    said: Mapping[str, Any] = field(default_factory=dict[str, Any])
    calls: dict[str, list[Arguments]] = field(default_factory=lambda: {name: [] for name in PARAMETERS})

    def evaluate(self) -> None:
        """Evaluate the Tiltfile as Tilt does."""
        self._module(self.root / "Tiltfile", _NAMESPACES)

    def _module(self, path: Path, before: str) -> starlark.FrozenModule:
        return self._evaluated(str(path.relative_to(self.root)), before + path.read_text(encoding="utf-8"))

    def _evaluated(self, name: str, content: str) -> starlark.FrozenModule:
        module = starlark.Module()
        for builtin, parameters in PARAMETERS.items():
            module.add_callable(builtin, self._noting(builtin, parameters.split()))
        for builtin, does in (
            ("config_parse", lambda: dict(self.said)),
            ("decode_yaml_stream", documents),
            ("encode_yaml_stream", lambda objects: yaml.dump_all(objects, Dumper=yaml.CSafeDumper)),
            ("local", self._local),
            ("read_file", lambda path: (self.root / path).read_text(encoding="utf-8")),
        ):
            module.add_callable(builtin, does)
        module["config_tilt_subcommand"] = self.subcommand
        module["TRIGGER_MODE_MANUAL"] = "manual"
        dialect = starlark.Dialect.extended()
        dialect.enable_load = True
        dialect.enable_top_level_stmt = True
        library = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])
        starlark.eval(module, starlark.parse(name, content, dialect), library, starlark.FileLoader(self._load))
        return module.freeze()

    def _load(self, path: str) -> starlark.FrozenModule:
        if path == "ext://uibutton":
            return self._evaluated(path, _UIBUTTON + "cmd_button = cmd_button\n")
        assert path.startswith("./"), f"{path} is neither beside the Tiltfile nor an extension that is known here"
        return self._module(self.root / path, _NAMESPACES)

    def _noting(self, builtin: str, parameters: Sequence[str]) -> Callable[..., Arguments]:
        signature = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in parameters]
        )

        def noted(*arguments: Any, **named: Any) -> Arguments:
            bound = dict(signature.bind(*arguments, **named).arguments)
            self.calls[builtin].append(bound)
            return {"made by": builtin, **bound}

        return noted

    def _local(self, command: Sequence[str], **_: Any) -> str:
        return self.commands[command[0]](command)
