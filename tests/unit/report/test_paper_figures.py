"""tools/paper_figures.py on run folders: figure 2 with what injection says, figure 3, and no training at all."""

import json

import paper_figures

from resq_deploy.report import critical_section


def test_both_figures_are_drawn(train_folder, faultcamp, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(critical_section, "FEWEST_LAYERS", 2)  # the file of the campaign has no more
    campaign = faultcamp("single", samples=80, fit_per_mbit=100.0)
    layers = list(json.loads((campaign / "summary.json").read_text())["by_layer"])
    train = train_folder(tmp_path / "train")
    ranking = [{"layer": name, "gradient": 1 / n, "scaled": n} for n, name in enumerate(layers, start=1)]
    (train / "criticality.json").write_text(json.dumps({"after": ranking}))
    assert paper_figures.main([str(train), str(campaign), f"--out={tmp_path / 'out'}"]) == 0
    found = sorted(path.name for path in (tmp_path / "out").glob("*.svg"))
    assert found == ["figure-2-2.svg", "figure-2.svg", "figure-3.svg"]
    assert "SDC-1 of a fault in the layer" in (tmp_path / "out" / "figure-2-2.svg").read_text()
    assert (tmp_path / "out" / "figure-3.png").stat().st_size > 1000
    assert "figure-3.svg" in capsys.readouterr().out


def test_runs_without_a_training_are_one_line(faultcamp, tmp_path, capsys):
    assert paper_figures.main([str(faultcamp("single", samples=80, fit_per_mbit=100.0)), f"--out={tmp_path}"]) == 2
    assert "none of the runs is a training" in capsys.readouterr().err
