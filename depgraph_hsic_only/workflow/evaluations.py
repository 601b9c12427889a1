"""What the models of a run are worth: each set of weights is measured once on the same images."""

from collections.abc import Sequence
from pathlib import Path

from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.evaluation.bootstrap import draws_for_deviation
from depgraph_hsic_only.evaluation.validation import Metrics, Validation, validate_model
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.types import Yolo

_FOLDER = "evaluated"  # of the lists of images, in the scratch folder


class Evaluations:
    """The mAPs that are known."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, Validation, tuple[Path, ...]], Metrics] = {}

    def of(
        self,
        model: Yolo,
        validation: Validation,
        config: Config,
        dataset: Dataset,
        folder: RunFolder,
        draws: int | None,
        images: Sequence[Path],
    ) -> Metrics:
        """The mAP of a model on some images with labels, or on the validation split; see `YoloPruner.evaluate`."""
        if draws is None:
            draws = draws_for_deviation(len(images or dataset.images("val")))
        key = fingerprint(model.model), draws, validation, tuple(images)
        if key not in self._known:
            if images:
                (place := folder.scratch / _FOLDER).mkdir(parents=True, exist_ok=True)
                data = dataset.write_keys_of(images, place)
            else:
                data = dataset.write_keys(folder.path)
            resources = {"device": config.device, "workers": config.workers}
            self._known[key] = validate_model(model, data, validation, draws=draws, **resources)
        return self._known[key]
