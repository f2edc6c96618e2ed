"""What cannot be replaced in the wheel that is shipped: compiled code does not look it up (see .ci/wheel.py)."""

import ast
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from openmcp.sidecar.mcp import jsonrpc

COMPILED = not jsonrpc.__file__.endswith(".py")
"""Whether the wheel is tested (`make test-wheel`)."""
_ROOT = Path(__file__).resolve().parents[2]


def inlined(target: object, name: str) -> bool:
    """Whether compiled code would not see another value of an attribute. It has constants, functions and classes in it,
    and calls the methods of its classes as functions of C; all else it looks up as other code does."""
    place = target if isinstance(target, ModuleType | type) else type(target)
    if isinstance(place, ModuleType):
        return _is_compiled(place.__name__) and _is_known(place.__name__, name)
    return _is_compiled(place.__module__)


def named(path: str) -> tuple[object, str]:
    """The owner and the attribute that a dotted path names."""
    owner, _, attribute = path.rpartition(".")
    return pkgutil.resolve_name(owner), attribute


def _is_compiled(module: str) -> bool:
    return module.startswith("openmcp.") and not str(sys.modules[module].__file__).endswith(".py")


def _is_known(module: str, name: str) -> bool:
    """Whether the compiler knows what a name of a module stands for, which may come from another one."""
    source = _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return source.exists() and any(_tells(node, module, name) for node in ast.parse(source.read_text()).body)


def _tells(node: ast.stmt, module: str, name: str) -> bool:
    match node:
        case ast.AnnAssign(target=ast.Name(id=found), annotation=kind, value=value) if found == name:
            return "Final" in ast.unparse(kind) and (isinstance(value, ast.Constant) or _is_compiled(module))
        case ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found) | ast.ClassDef(name=found):
            return found == name and _is_compiled(module)
        case ast.ImportFrom(module=str(source), names=names) if source.startswith("openmcp."):
            return any(_is_known(source, one.name) for one in names if (one.asname or one.name) == name)
    return False
