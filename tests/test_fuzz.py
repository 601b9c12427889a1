"""Whatever comes in, out comes a valid stock model or one clear line; never a traceback, never a wrong model."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import every, outputs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ultralytics.nn.tasks import SegmentationModel
from ultralytics.utils import ROOT, YAML

from depgraph_hsic_only import ConfigError, PruningError, PruningPlan, apply_plan, load_model, plan_pruning
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties
from depgraph_hsic_only.support.yaml import read_yaml
from depgraph_hsic_only.workflow.config import DEFAULTS, Config, load_config
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE


def examples(few: int, many: int) -> Any:
    """So many examples by default, and so many in the slow set."""
    return pytest.mark.parametrize("budget", every([few], [many]))


def fuzz(budget: int, check: Callable[..., None], *strategies: Any) -> None:
    """Call `check` with what the strategies draw."""
    phases = [Phase.reuse, Phase.generate]  # shrinking takes minutes where an example takes a second
    options = settings(
        max_examples=budget,
        phases=phases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=budget < 300,  # by default the same every time; the slow set looks further
    )
    options(given(st.tuples(*strategies))(lambda drawn: check(*drawn)))()


def one_line(error: PruningError) -> bool:
    return "\n" not in str(error) and 0 < len(str(error)) < 20_000


def assert_stock(model: Any, imgsz: int = 64) -> None:
    """Ultralytics rebuilds this very network from the YAML in it."""
    assert all(type(m).__module__.startswith(("torch.", "ultralytics.")) for m in model.modules())
    rebuilt = SegmentationModel(copy.deepcopy(model.yaml), verbose=False)
    rebuilt.load(copy.deepcopy(model), verbose=False)
    state, wanted = rebuilt.state_dict(), model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}
    assert list(state) == list(wanted) and all(torch.equal(state[k], wanted[k]) for k in wanted)
    image = torch.rand(1, 3, imgsz, imgsz)
    for a, b in zip(outputs(rebuilt, image), outputs(copy.deepcopy(model), image), strict=True):
        assert torch.equal(a, b) and bool(torch.isfinite(a).all())


SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 700), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from(["0.5", "none", "cpu", "magnitude", "backbone", "all", "SGD", "gmacs=0.8", "\n", "é" * 500]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=6,
)
BLOCKS = {key: list(value) for key, value in DEFAULTS.items() if isinstance(value, dict)}
DOTTED = [f"{block}.{key}" for block, keys in BLOCKS.items() for key in keys]
NAMES = st.one_of(
    st.sampled_from(
        [*DEFAULTS, *DOTTED, "lr0", "epochs", "freeze", "optimizer", "train.lr0", "fine_tune.batch", "a.b"]
    ),
    st.text(max_size=6),
)
OF_BLOCK = st.sampled_from(list(BLOCKS)).flatmap(
    lambda block: st.tuples(
        st.just(block), st.dictionaries(st.one_of(st.sampled_from(BLOCKS[block]), SCALARS), VALUES, max_size=3)
    )
)
SETTINGS = st.lists(st.one_of(st.tuples(NAMES, VALUES), OF_BLOCK), max_size=4).map(dict)


@examples(250, 20_000)
def test_settings(budget: int, tmp_path: Path) -> None:
    def check(settings: dict[str, Any], in_a_file: bool) -> None:
        file = None
        if in_a_file:
            file = tmp_path / "settings.yaml"
            file.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        try:
            config = load_config(file) if file else load_config(None, settings)
        except ConfigError as error:
            assert one_line(error), error
            return
        assert isinstance(config, Config) and type(config.batch) is int and config.batch >= 1
        ratio = config.prune.ratio
        assert config.prune.threshold is not None or config.prune.target is not None or 0 <= (ratio or 0) < 1
        again = load_config(config.to_dict())
        assert repr(again) == repr(config)  # of nan too
        json.dumps(config.to_dict(), allow_nan=False)  # which `state.json` holds

    fuzz(budget, check, SETTINGS, st.booleans())


@examples(150, 20_000)
def test_text_for_a_settings_file(budget: int, tmp_path: Path) -> None:
    words = [
        "a",
        "train",
        "prune",
        ": ",
        ":",
        "\n",
        "\n  ",
        "- ",
        "&x ",
        "*x",
        "<<: ",
        "!!",
        "!!python/object:os.x ",
        "{",
    ]
    words += [
        "}",
        "[",
        "]",
        ", ",
        "'",
        '"',
        "|\n",
        ">\n",
        "#",
        "? ",
        "1e-4",
        "2001-13-45",
        "!!int x",
        "!!timestamp x",
        "\t",
    ]
    text = st.one_of(st.lists(st.sampled_from(words), max_size=20).map("".join), st.text(max_size=30))

    def check(text: str) -> None:
        (tmp_path / "settings.yaml").write_text(text, encoding="utf-8", errors="replace")
        try:
            assert all(isinstance(key, str) for key in read_yaml(tmp_path / "settings.yaml"))
        except ConfigError as error:
            assert one_line(error), error

    fuzz(budget, check, text)


def mutated(value: Any, choices: st.DataObject, what: st.SearchStrategy[Any]) -> Any:
    """A copy of nested lists and dicts with a value somewhere in it replaced, removed or repeated."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = choices.draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list, tuple)) and place[key] and choices.draw(st.integers(0, 4)):
            if isinstance(place[key], tuple):
                place[key] = list(place[key])
            place = place[key]
            continue
        change = choices.draw(st.sampled_from(["replace", "remove", "repeat"]))
        if change == "replace":
            place[key] = choices.draw(what)
        elif change == "remove":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        return value


TINY = {"scales": {"n": [0.33, 0.125, 1024]}, "scale": "n"}  # a width of 8 to 128
WIDTHS = st.one_of(st.integers(0, 300), st.sampled_from([True, 8.0, "8", None, [8], math.nan]))


def stock_yaml() -> dict[str, Any]:
    """Ultralytics' own YAML."""
    return dict(YAML.load(ROOT / "cfg" / "models" / "v8" / "yolov8-seg.yaml"))


@examples(12, 2_000)
def test_plans(budget: int) -> None:
    model = SegmentationModel(stock_yaml() | TINY | {"nc": 3}, verbose=False).eval()
    plan = plan_pruning(model, 0.5, layers=[2, 7, 8, 15])
    known = json.loads(json.dumps(plan.to_dict()))
    state = copy.deepcopy(model.state_dict())

    def check(choices: st.DataObject, times: int) -> None:
        data = known
        for _ in range(times):
            data = mutated(data, choices, WIDTHS)
        try:
            changed = PruningPlan.from_dict(data)
            cut = copy.deepcopy(model)
            apply_plan(cut, changed)
        except PruningError as error:
            assert one_line(error), error
        else:
            assert layer_widths(cut).items() >= changed.after.items()
            assert {w.name: w.before for w in changed.widths} == plan.before
            assert_stock(cut)

    fuzz(budget, check, st.data(), st.integers(1, 3))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@examples(6, 400)
def test_keep_sets_of_any_architecture(budget: int) -> None:
    """Any depth, width, class count and image size; any channels, in any layers, stay."""

    def check(choices: st.DataObject, depth: float, width: float, classes: int, size: int, layers: Any) -> None:
        scales = {"scales": {"n": [depth, width, choices.draw(st.sampled_from([256, 1024]))]}, "scale": "n"}
        model = SegmentationModel(stock_yaml() | scales | {"nc": classes}, verbose=False).eval()
        graph = trace_channels(model, layers)
        free = {}
        for group in graph.widths:
            if group.tie is None:
                step = OUTPUT_MULTIPLE if group.is_output else 1
                least = -(-group.least // step)
                free[group.name] = step * choices.draw(st.integers(least, group.channels // step))
        widths = follow_ties(graph, free)
        generator = torch.Generator().manual_seed(choices.draw(st.integers(0, 99)))
        scores = {group.name: torch.rand(group.channels, generator=generator) for group in graph.groups}
        plan = make_plan(graph, scores, widths, criterion="drawn", reasons=dict.fromkeys(widths, "drawn"))
        apply_plan(model, PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict()))))
        assert layer_widths(model).items() >= widths.items()
        assert_stock(model, size)

    layers = st.one_of(
        st.sampled_from(["backbone", "all"]),
        st.lists(st.sampled_from([*range(10), 12, 15, 16, 18, 19, 21, 22]), min_size=1, max_size=6),
    )
    numbers = (
        st.sampled_from([0.1, 0.33, 0.67]),
        st.sampled_from([0.0625, 0.125, 0.1875]),
        st.sampled_from([1, 2, 17, 80]),
    )
    fuzz(budget, check, st.data(), *numbers, st.sampled_from([32, 64, 96]), layers)


@examples(15, 1_000)
def test_model_yaml(budget: int, tmp_path: Path) -> None:
    """A YAML that was changed somewhere is refused, or builds a network that is cut to a stock model."""
    known = stock_yaml() | {"scales": {"n": [0.33, 0.125, 1024]}, "nc": 3}
    modules = [
        "Conv",
        "C2f",
        "C3",
        "SPPF",
        "Concat",
        "nn.Upsample",
        "Segment",
        "Detect",
        "Nothing",
        "os.system",
        "nn.ReLU()",
    ]
    values = st.one_of(st.integers(-3, 40), st.booleans(), st.none(), st.floats(), st.sampled_from(modules))

    def check(choices: st.DataObject, times: int) -> None:
        data = known
        for _ in range(times):
            data = mutated(data, choices, values)
        file = tmp_path / "yolov8n-seg.yaml"
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        try:
            model = load_model(file).model.eval()
            plan = plan_pruning(model, 0.5, layers=[4, 6, 7])
            apply_plan(model, plan)
        except PruningError as error:
            assert one_line(error), error
        else:
            assert_stock(model)

    fuzz(budget, check, st.data(), st.integers(1, 2))
