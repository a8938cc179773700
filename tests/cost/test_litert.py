"""LiteRT: where its converter is, what is sent to it and comes back, outputs, threads."""

from __future__ import annotations

import importlib.util
import io
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import Tensor, nn

from autoprune.cost.targets import litert
from autoprune.cost.targets.litert import PYTHON, LiteRt, LoadedModel, convert, converter
from autoprune.errors import DeviceError, ExportError

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
OURS = torch.__version__.partition("+")[0]
COPIES = f"""
for file in folder.glob("*.pt2"):
    file.with_suffix(".tflite").write_bytes(file.read_bytes())
answer = {{"torch": "{torch.__version__}", "converter": "copier 1.0", "errors": {{}}}}
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Makes a Python that says it has the converter, and does what the lines say."""

    def make(lines: str, has_converter: bool = True) -> Path:
        file = tmp_path / "python"
        file.write_text(
            f"#!{sys.executable}\n"
            "import json, sys\nfrom pathlib import Path\n"
            f"if '-c' in sys.argv:\n    sys.exit({int(not has_converter)})\n"
            "with open(__file__ + '.calls', 'a') as calls:\n    print(*sys.argv[1:], file=calls)\n"
            "folder = Path(sys.argv[-1])\n"
            f"{lines}\n"
            "(folder / 'answer.json').write_text(json.dumps(answer))\n"
        )
        file.chmod(0o755)
        monkeypatch.setenv(PYTHON, str(file))
        return file

    return make


def model(width: int = 8) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)).eval()


@pytest.fixture
def here(monkeypatch):
    """Says whether this environment has the converter, and names no other."""

    def installed(yes: bool) -> None:
        found = importlib.util.find_spec

        def find_spec(name: str) -> ModuleSpec | None:
            if name == "litert_torch":
                return ModuleSpec(name, None) if yes else None
            return found(name)

        monkeypatch.delenv(PYTHON, raising=False)
        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return installed


def test_the_named_python_runs_without_what_is_set_for_this_one(environment):
    python = environment("")
    assert converter() == [str(python), "-I"]


def test_a_converter_of_this_environment_is_used_where_none_is_named(here):
    here(True)
    assert converter() == [sys.executable, "-P"]


def test_without_a_converter_one_line_says_how_to_make_an_environment(here):
    here(False)
    with pytest.raises(DeviceError) as error:
        converter()
    assert str(error.value) == (
        "litert needs its converter, litert-torch · python3 -m venv ~/litert && ~/litert/bin/pip "
        f"install litert-torch torch=={OURS}, then export AUTOPRUNE_LITERT_PYTHON="
        "~/litert/bin/python"
    )


@pytest.mark.parametrize("kind", ["missing", "no program"])
def test_a_named_python_must_be_one(tmp_path, monkeypatch, kind):
    file = tmp_path / "python"
    if kind == "no program":
        file.write_bytes(b"\x7fELF, or so")
        file.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(file))
    with pytest.raises(DeviceError, match=rf"{PYTHON} must be a Python, got '{file}'") as error:
        converter()
    assert "\n" not in str(error.value)


def test_a_named_python_without_the_converter_is_one_line(environment):
    python = environment("", has_converter=False)
    with pytest.raises(DeviceError, match=f"{PYTHON}: {python} lacks litert-torch · ") as error:
        converter()
    assert "\n" not in str(error.value)


def test_all_models_are_sent_to_one_process_as_programs_of_their_tensors(environment):
    python = environment(COPIES)
    models = [model(8), model(4), TwoByName().eval()]
    for some, inputs in ((models[:2], X), (models[2:], INPUTS)):
        sent = convert(some, inputs)
        assert sent.converter == "copier 1.0"
        for one, program in zip(some, sent.models, strict=True):
            given = [X] if one in models[:2] else [INPUTS["scale"], INPUTS["tokens"]]
            expected = one(X) if one in models[:2] else one(**INPUTS)
            found = torch.export.load(io.BytesIO(program)).module()(*given)
            wanted = [expected] if isinstance(expected, Tensor) else list(expected.values())
            for ours, theirs in zip(wanted, found, strict=True):
                torch.testing.assert_close(theirs, ours)
    assert len(Path(f"{python}.calls").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("theirs", "hint"), [(OURS, ""), ("1.0", f"; its torch is 1.0, this one {OURS}")]
)
def test_what_cannot_be_converted_is_one_line(environment, theirs, hint):
    environment(
        COPIES
        + f"answer |= {{'torch': '{theirs}+cpu', 'errors': {{'1': 'ValueError: no tfl.fft'}}}}"
    )
    with pytest.raises(ExportError) as error:
        convert([model(), model()], X, limit_s=0.2)
    assert str(error.value) == (
        f"the model cannot be written for LiteRT (ValueError: no tfl.fft{hint}) · export it as onnx"
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sys.exit('no such thing\\nImportError: jax')", r"code 1: ImportError: jax\)"),
        ("sys.exit(0)", r"code 0: no message\)"),
    ],
)
def test_a_converter_that_ends_without_an_answer_is_one_line(environment, lines, said):
    environment(lines)
    with pytest.raises(ExportError, match=rf"litert-torch fails \({said}") as error:
        convert([model()], X)
    assert "\n" not in str(error.value)


def test_a_converter_that_does_not_end_is_stopped(environment):
    environment("import time; time.sleep(60)")
    with pytest.raises(ExportError, match=r"litert-torch took longer than 0\.4 s"):
        convert([model(), model()], X, limit_s=0.2)


def test_what_torch_cannot_export_is_not_sent(environment):
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    python = environment(COPIES)
    with pytest.raises(ExportError, match="cannot be written for LiteRT") as error:
        convert([Odd()], X)
    assert "\n" not in str(error.value)
    assert not Path(f"{python}.calls").exists()


def test_what_it_cannot_run_is_one_line(environment, monkeypatch):
    class Refuses:
        def __init__(self, data: bytes, threads: int) -> None:
            raise ValueError("Op builtin_code out of range\nmore")

    environment(COPIES)
    monkeypatch.setattr(litert, "LoadedModel", Refuses)
    with pytest.raises(
        DeviceError, match=r"cannot run Sequential \(Op builtin_code out of range\)"
    ):
        LiteRt().prepare(model(), X, 1)


def need() -> None:
    pytest.importorskip("ai_edge_litert")
    try:
        LiteRt().check()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.slow  # seconds to convert
def test_outputs_of_several_inputs_and_several_models():
    need()

    class Odd(nn.Module):
        def forward(self, x: Tensor, unused: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
            return x * 2, ids + 1, x * 2, x

    class Many(nn.Module):
        def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
            return tuple(one * place for place, one in enumerate(given))

    three = (X, X + 1, torch.tensor([[3, 1]]))
    twelve = tuple(torch.randn(2, 3) for _ in range(12))
    for one, inputs in ((Odd(), three), (Many(), twelve), (TwoByName().eval(), INPUTS)):
        expected = one(**inputs) if isinstance(inputs, dict) else one(*inputs)
        wanted = list(expected.values()) if isinstance(expected, dict) else expected
        found = LoadedModel(convert([one], inputs).models[0], 1)(inputs)
        for ours, theirs in zip(wanted, found, strict=True):
            torch.testing.assert_close(theirs, ours.detach(), check_dtype=False)


@pytest.mark.slow  # seconds to convert
@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_runs_again_on_the_same_inputs(threads):
    need()
    one = model()
    loaded = LoadedModel(convert([one], X).models[0], threads)
    call = loaded.call(X)
    for _ in range(3):
        call()
    indices = [detail["index"] for detail in loaded._outputs.values()]
    (found,) = (torch.from_numpy(loaded._interpreter.get_tensor(index)) for index in indices)
    torch.testing.assert_close(found, one(X).detach())


@pytest.mark.slow  # seconds to convert
def test_models_of_one_measurement_keep_their_order():
    need()
    calls = LiteRt().prepare_all([model(8), model(4)], X, 1)
    sizes = [sum(d["shape"].prod() for d in call.__self__.get_tensor_details()) for call in calls]
    assert sizes[0] > sizes[1]
