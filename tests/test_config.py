"""Settings: three layers, all faults at once, and a default.yaml that says what the defaults are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from depgraph_hsic_only import ConfigError
from depgraph_hsic_only.training.arguments import parse_override
from depgraph_hsic_only.workflow.config import DEFAULTS, load_config

ROOT = Path(__file__).parents[1]


def test_default_yaml_holds_the_defaults_and_is_shipped() -> None:
    assert yaml.safe_load((ROOT / "default.yaml").read_text()) == DEFAULTS
    assert (ROOT / "default.yaml").read_bytes() == (ROOT / "depgraph_hsic_only" / "default.yaml").read_bytes()


def test_defaults_then_file_then_overrides(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("default.yaml").to_dict() == load_config(None).to_dict()  # found in the package
    Path("default.yaml").write_text(
        "epochs: 3\nlr0: 1e-3\nfine_tune: {epochs: 7, optimizer: SGD}\nprune: {ratio: 0.3}\n"
    )
    config = load_config("default.yaml", {"prune.layers": [3], "optimizer": "AdamW", "train.epochs": 0})  # found here
    assert dict(config.train) == {"epochs": 0, "lr0": 0.001, "optimizer": "AdamW"}
    assert dict(config.fine_tune) == {"epochs": 7, "lr0": 0.001, "optimizer": "AdamW"}
    assert (config.prune.ratio, config.prune.layers, config.prune.criterion) == (0.3, [3], "magnitude")
    again = tmp_path / "args.yaml"
    again.write_text(yaml.safe_dump(config.to_dict()))
    assert load_config(again) == config
    with pytest.raises(AttributeError):
        config.seed = 3  # type: ignore[misc]


def test_an_amount_goes_over_the_one_below() -> None:
    file = {"prune": {"ratio": 0.3, "target": {"params": 0.9}}}
    for given, amount in (
        ({}, "params=0.9"),
        ({"prune.target": "gmacs=0.8"}, "gmacs=0.8"),
        ({"prune": {"ratio": 0.2}}, "ratio=0.2"),
        ({"prune.ratio": 0.2, "prune.target": None}, "ratio=0.2"),
        ({"prune.threshold": 0.1}, "threshold=0.1"),
    ):
        config = load_config(file, given)
        assert str(config.prune.amount) == amount
        assert load_config(config.to_dict()) == config
    for given in ({"prune": {"ratio": 0.2, "target": "params=0.9"}}, {"prune.ratio": 0.2, "prune.threshold": 0.1}):
        with pytest.raises(ConfigError, match=r"prune: expected .* got ratio=0.2 and .*; leave all but one out"):
            load_config(None, given)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.epochs=5", 5),
        ("lr0=1e-4", 1e-4),
        ("prune.layers=[3,4]", [3, 4]),
        ("rivals=[small.pt, other.pt]", ["small.pt", "other.pt"]),
        ("prune.max_ratio={6: 0.5, h8: 0.25}", {6: 0.5, "h8": 0.25}),
        ("cos_lr=true", True),
        ("device=none", None),
        ("fine_tune.freeze=null", None),
        ("name=a=b", "a=b"),
    ],
)
def test_overrides_on_the_command_line(text: str, value: Any) -> None:
    assert parse_override(text) == (text.partition("=")[0], value)


def test_all_faults_are_named_at_once_with_the_nearest_name() -> None:
    wrong = {
        "trian.epochs": 3,
        "optimiser": "SGD",
        "batch": "many",
        "imgsz": -5,
        "seed": 1.5,
        "data": {"train": "x"},
        "name": "..",
        "train": {"epoch": 3, "data": "x", "mosaic": "a", "lr0": 7},
        "fine_tune.epochs": -1,
        "prune": {"ratio": 1.2, "layers": "neck", "criterion": "magnitud", "steps": 0, "max_map_drop": 3, "cut": 1},
        "export.format": "engine",
        "export.images": 0,
        "calibration.images": 0,
    }
    with pytest.raises(ConfigError) as caught:
        load_config(None, wrong)
    message = str(caught.value)
    for part in (
        "unknown block 'trian' (did you mean 'train'?)",
        "optimiser: unknown setting (did you mean 'optimizer'?)",
        "batch: expected an integer",
        "imgsz: expected a side",
        "seed: expected",
        "data: expected",
        "name: expected",
        "train.epoch: unknown setting (did you mean 'epochs'?)",
        "train.data: not a setting here; it comes from data at the top level",
        "train.mosaic:",
        "train.lr0:",
        "fine_tune.epochs: expected",
        "prune.ratio: expected",
        "prune.layers: expected",
        "prune.criterion: expected",
        "did you mean 'magnitude'",
        "prune.steps: expected",
        "prune.max_map_drop: expected",
        "prune.cut: unknown setting",
        "export.format: not a setting here",
        "export.images: expected",
        "calibration.images: expected",
    ):
        assert part in message, part
    assert "\n" not in message
    with pytest.raises(
        ConfigError, match=r"export: expected a block .*latency: expected a block .*prune.steps: expected"
    ):
        load_config(None, {"export": 3, "latency": None, "prune.steps": 0})
    with pytest.raises(ConfigError, match=r"fine_tune.lr: unknown setting \(did you mean 'lr0' or 'lrf'\?\)"):
        load_config(None, {"fine_tune.lr": 0.1})


def test_yaml_is_read_as_people_mean_it(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(
        "exist_ok: yes\ntrust: off\nverbose: On\nlr0: 1e-4\nmomentum: 9.e-1\nproject: 'no'\nname: y\n"
        "fine_tune: {lrf: 1E-2}\n"
    )
    config = load_config(path)
    assert (config.exist_ok, config.trust, config.verbose) == (True, False, True)
    assert (config.project, config.name) == ("no", "y")
    assert dict(config.fine_tune) == {"epochs": 10, "lr0": 1e-4, "momentum": 0.9, "lrf": 0.01}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: &a {epochs: 3}\nfine_tune: {<<: *a, lr0: 0.1, lr0: 0.2}\n", "'lr0' is given twice"),
        ("- a\n- b\n", "got a list"),
        ("\ttrain: 3\n", "expected YAML"),
        ("just text", "got a str"),
        ("train: 3", "train: expected a block"),
        ("prune: [1]", "prune: expected a block"),
        ("3: 4", "expected settings"),
        ("a: !!python/object/apply:os.system [echo]", "expected YAML"),
        ("train: {epochs: ", "expected YAML"),
    ],
)
def test_yaml_that_holds_no_settings(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="there is none"):
        load_config(tmp_path / "other.yaml")
