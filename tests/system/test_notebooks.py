"""The notebooks run from top to bottom, and the per-image losses that one of them shows add up to torchvision's."""

import copy
from pathlib import Path

import nbclient
import nbformat
import pytest
import torch
from torchvision.models.detection import FCOS

from tests.tracking.full_sweep import write_full_sweep
from tests.tracking.mlflow_store import GRID, Store

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CELL_SECONDS = 240  # a few are enough on a core of its own


@pytest.fixture(scope="module")
def mlflow_runs(tmp_path_factory):
    """A small MLflow store for the notebooks that read one."""
    store = Store(tmp_path_factory.mktemp("mlflow"))
    write_full_sweep(store, ["baseline", "LIS", "UIS"], grid=GRID[::4])
    return store


def execute(notebook, folder, tmp_path, monkeypatch):
    """The notebook, run in a folder; neither reads from nor writes to the user's home."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


RESULT = "05_real_traffic"
SLOW = "04_your_own_dataset"  # trains, on a Ray of its own


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path.stem == SLOW), id=path.stem) for path in PATHS]
)
def test_a_notebook_runs(path, tmp_path, monkeypatch, mlflow_runs):
    monkeypatch.setenv("ISOD_TRACKING_URI", mlflow_runs.uri)
    monkeypatch.setenv("ISOD_EXPERIMENT", mlflow_runs.experiment)
    notebook = execute(nbformat.read(path, as_version=4), tmp_path, tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    shown = [output.data for output in outputs if "data" in output]
    assert [data for data in shown if data["text/plain"].startswith("<Figure") and "image/png" not in data] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path):
    """But for the one that is a result."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.id
        if path.stem != RESULT:
            assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_the_kept_result_is_what_the_kept_runs_give(tmp_path, monkeypatch):
    """Every text and table of it, made again from notebooks/data."""
    monkeypatch.delenv("ISOD_TRACKING_URI", raising=False)
    monkeypatch.delenv("ISOD_EXPERIMENT", raising=False)
    kept = nbformat.read(NOTEBOOKS / f"{RESULT}.ipynb", as_version=4)
    again = execute(copy.deepcopy(kept), NOTEBOOKS, tmp_path, monkeypatch)
    assert texts(kept) == texts(again)
    assert len(texts(kept)) >= 5
    assert any("image/png" in output.get("data", {}) for cell in kept.cells for output in cell.get("outputs", []))


def test_the_kept_runs_are_small():
    files = [path for path in (NOTEBOOKS / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    tables = {"runs.parquet", "curves.parquet", "real_traffic_labels.csv"}
    assert {path.name for path in files} == tables  # no frames


def texts(notebook):
    """What each cell prints and shows, but for figures and what is meant for a person's log."""
    shown = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])  # one print or two: when they were flushed decides into how many parts
        shown += filter(None, ["".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")])
        for output in outputs:
            if output.output_type == "execute_result" and "image/png" not in output.data:
                shown.append(output.data["text/plain"])
    return shown


def per_image_head() -> type[torch.nn.Module]:
    """The class as the notebook has it."""
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS / "torchvision_fcos.ipynb", as_version=4).cells]
    names: dict = {}
    exec("import torch\nfrom torchvision.models.detection.fcos import FCOSHead", names)
    exec(next(source for source in cells if source.startswith("class PerImageHead")), names)
    return names["PerImageHead"]


class Pyramid(torch.nn.Module):
    """A backbone of one layer per map, instead of a ResNet-50: five maps of strides 8 to 128."""

    out_channels = 64  # the head normalises 32 groups of channels

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(3, 64, 1) for _ in range(5))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            str(i): layer(torch.nn.functional.adaptive_avg_pool2d(images, max(1, images.shape[-1] // 8 // 2**i)))
            for i, layer in enumerate(self.layers)
        }


def test_losses_per_image_add_up_to_the_batchs_loss():
    """Σ max(1, F_i)·loss_i / max(1, ΣF_i) on images with no, one and several objects, F_i from torchvision's matching;
    the batch's loss is that of torchvision's own head, and each image's is that of a batch of its own.
    """
    foreground: list[int] = []  # of the last batch

    class Counting(per_image_head()):
        def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
            foreground[:] = [int((matched >= 0).sum()) for matched in matched_idxs]
            return super().compute_loss(targets, head_outputs, anchors, matched_idxs)

    torch.manual_seed(0)
    boxes = torch.tensor([[5.0, 5.0, 30.0, 40.0], [20.0, 22.0, 60.0, 62.0], [1.0, 40.0, 20.0, 63.0]])
    labels = torch.tensor([1, 2, 1])
    targets = [{"boxes": boxes[:n], "labels": labels[:n]} for n in (0, 1, 3, 2)]
    images = list(torch.rand(4, 3, 64, 64))
    head = Counting(in_channels=64, num_anchors=1, num_classes=3)
    model = FCOS(Pyramid(), num_classes=3, head=head, min_size=64)
    loss = sum(model(images, targets).values())
    losses = head.image_losses
    assert loss.requires_grad
    assert not losses.requires_grad
    assert foreground[0] == 0 < min(foreground[1:])
    assert len(set(foreground)) > 2
    share = torch.tensor(foreground).clip(min=1) / sum(foreground)
    assert float((share * losses).sum()) == pytest.approx(loss.item(), rel=1e-5)

    plain = FCOS(Pyramid(), num_classes=3, min_size=64)
    plain.load_state_dict(model.state_dict())
    assert sum(plain(images, targets).values()).item() == pytest.approx(loss.item(), rel=1e-6)

    alone = [sum(model([image], [target]).values()) for image, target in zip(images, targets, strict=True)]
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-4, atol=1e-6)
