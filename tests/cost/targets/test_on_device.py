"""What runs on a device: what it tells of it, and which Python it needs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from autoprune.cost import timing
from autoprune.cost.targets import load, on_device

ON_DEVICE = [Path(str(module.__file__)) for module in (timing, load, on_device)]


@pytest.mark.parametrize("file", ON_DEVICE, ids=lambda file: file.name)
def test_the_device_needs_python_3_8_numpy_and_onnxruntime(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    tops = {name.partition(".")[0] for name in names}
    assert tops <= sys.stdlib_module_names | {"numpy", "onnxruntime"}
    assert newer_than_3_8(tree) == []


def newer_than_3_8(tree: ast.AST) -> list[str]:
    """Uses of later versions that parse: `list[int]` when run, `a | b` of types, new arguments."""
    run = RunOnly().visit(tree)
    found = []
    for node in ast.walk(run):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            generic = node.value.id in ("list", "dict", "tuple", "set", "type", "Callable")
            found += [ast.unparse(node)] if generic else []
        if isinstance(node, ast.Call):
            new = {"removeprefix", "removesuffix", "is_relative_to", "pairwise", "bit_count"}
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            strict = name == "zip" and any(word.arg == "strict" for word in node.keywords)
            found += [ast.unparse(node)] if name in new or strict else []
        if isinstance(node, (ast.With, ast.AsyncWith)) and len(node.items) > 1:
            found.append("with several managers")
    return found


class RunOnly(ast.NodeTransformer):
    """Leaves out what is only for the type checker: annotations, `if TYPE_CHECKING`."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return node.value

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@pytest.mark.parametrize(
    "source", ["Call = Callable[[], int]", "x = list[int]()", "zip(a, b, strict=True)"]
)
def test_what_is_newer_than_3_8_is_found(source: str) -> None:
    assert len(newer_than_3_8(ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("cpuinfo", "known"),
    [
        ("model name: x\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("", None),
    ],
)
def test_int8_instructions_are_read_from_the_system(tmp_path, cpuinfo, known) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert on_device.int8_instructions(str(tmp_path / "cpuinfo")) is known


def test_instruction_sets_are_those_of_the_first_core(tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\nmodel name : x\nflags : sse\n")
    assert on_device.cpu_flags(str(tmp_path / "cpuinfo")) == {"fpu", "avx2"}
    assert on_device.cpu_flags(str(tmp_path / "none")) == frozenset()


def job(**changes: object) -> dict[str, object]:
    return {"models": [], "provider": on_device.CPU, "threads": 1, **changes}


def test_a_device_tells_what_it_is_and_has(tmp_path) -> None:
    found = on_device.answer(tmp_path, job())
    about = found["device"]
    assert found["missing"] == {}
    assert "rounds" not in found
    assert about["name"] == on_device.device_name() != ""
    assert about["cores"] == on_device.cores() >= 1
    assert set(about["versions"]) == {"python", "numpy", "onnxruntime"}
    assert on_device.CPU in about["providers"]


@pytest.mark.parametrize("changes", [{"provider": "No"}, {"threads": 0}, {"threads": 10_000}])
def test_what_a_device_cannot_do_is_not_begun(tmp_path, changes: dict[str, object]) -> None:
    found = on_device.answer(tmp_path, job(models=["no such file"], **changes))
    assert "rounds" not in found
