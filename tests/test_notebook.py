"""The shipped notebook runs, and shows what it says."""

from pathlib import Path

import pytest

from analogsim.config.loader import bundled

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: there is no Python to run a notebook with")

NOTEBOOK = bundled("examples") / "analysis.ipynb"
ROOT = Path(__file__).resolve().parent.parent


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # as in a notebook: figures go into it
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shipped = [str(output.get("data", {}).get("text/plain", "")) for output in outputs(notebook)]
    last = notebook.cells[-1]
    check = nbformat.v4.new_code_cell(
        "assert len(chips.trials) == 4 and len(bits.trials) == 8\nbits.trials.iloc[:, 5:].to_csv('bits.csv')"
    )
    notebook.cells.append(check)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert pictures(notebook) == 3
    assert "('report.html'" in last.outputs[0]["data"]["text/plain"]
    assert any("final_test_accuracy" in text for text in shipped)
    header, *rows = (tmp_path / "bits.csv").read_text().splitlines()
    column = header.split(",").index("final_test_accuracy")
    assert float(rows[-1].split(",")[column]) > 0.5  # 12 bits leave chance (10 %) far behind


def test_the_notebook_is_shipped_with_its_pictures_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert pictures(notebook) == 3
    assert not any(output.output_type == "error" for output in outputs(notebook))
    assert NOTEBOOK.stat().st_size < 150_000
