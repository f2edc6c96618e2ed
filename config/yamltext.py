"""Kubernetes manifests as text: read as kubectl reads them, written so that it reads the same again.

Unlike `yamlsource`, which is strict with files that are ours, this takes what stands in anybody's manifests: anchors,
merge keys, octal numbers, `yes`. Comments are lost on the way.
"""

import re
from typing import Any

import yaml

_BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)$")
_BOOLEAN = re.compile(r"(?:y|Y|n|N|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@ -]*[A-Za-z0-9_./@-]")
"""Texts that no reader of YAML takes for anything else; `yes` and the like are among them and are looked at apart."""


class NotYaml(Exception):
    """The text says where and why."""


class _Loader(_BASE):  # type: ignore[misc,valid-type]  # which base it is depends on how pyyaml was built
    """Resolves plain scalars as the YAML library of Kubernetes does: no dates, no base 60, `y` is true."""

    yaml_implicit_resolvers = {
        first: [(tag, shape) for tag, shape in resolvers if tag.rpartition(":")[2] not in ("timestamp", "int", "bool")]
        for first, resolvers in _BASE.yaml_implicit_resolvers.items()
    }


class _Dumper(_DUMPER):  # type: ignore[misc,valid-type]  # as above
    """Writes texts in quotes wherever one reader or another would take them for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal things out: an alias is a surprise to the reader."""
        return True


def _integer(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    octal = re.fullmatch(r"([-+]?)0([0-7]+)", text)
    return int(f"{octal[1]}0o{octal[2]}" if octal else text, 0)


def _boolean(loader: Any, node: Any) -> bool:
    return loader.construct_scalar(node).lower() in ("y", "yes", "true", "on")


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f'duplicate key "{key.value}"', key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


def _text(dumper: Any, text: str) -> Any:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    is_plain = _PLAIN.fullmatch(text) and not _BOOLEAN.match(text) and text.lower() != "null"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOLEAN, list("yYnNtTfFoO"))
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Dumper.add_representer(str, _text)


def read_manifests(data: bytes) -> list[Any]:
    """The documents of a file, empty ones left out; keys are texts. Raises `NotYaml`."""
    try:
        return [document for document in yaml.load_all(data, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise NotYaml(f"{line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(str(error).partition("\n")[0]) from None


def write_manifests(documents: list[Any]) -> str:
    """Documents as a stream of YAML; keys stay in their order."""
    return yaml.dump_all(documents, Dumper=_Dumper, explicit_start=True, sort_keys=False, allow_unicode=True, width=120)
