"""Tables of memories: what is averaged and paired, when a part may be said to help, and that a plot is drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import memory_table
from benchmarks.memory_table import Gain, Model, draw, gain, gains, markdown, read

TITANS, OMEGA = Model("titans", "chunk-16"), Model("omega", "chunk-16")


def line(task, model, level, seed, value, preset="chunk-16", **more):
    unit = "bits per byte" if task.startswith("text") else "share of answers right"
    figure = {"name": "x", "value": value, "unit": unit, "part": "test", "task": task, "model": model, "preset": preset}
    sizes = {"length": 64, "batch": 16, "steps": 8, "tests": 4, "state_bytes": 2048, "parameters": 1234}
    return {**figure, "level": level, "seed": seed, **sizes, **more}


def write(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_lines_of_other_settings_and_older_ones_are_left_out(tmp_path):
    lines = [
        line("recall", "titans", "pairs-2", 0, 0.1, steps=4),
        line("recall", "titans", "pairs-2", 0, 0.2),
        line("recall", "titans", "pairs-2", 0, 0.3),
        {"name": "tuning", "part": "validation", "value": 1.0, "task": "recall"},
        {**line("recall", "titans", "pairs-2", 0, 0.9), "seed": None, "part": "validation"},
    ]
    found = read(write(tmp_path / "lines.jsonl", lines))
    assert [*found] == ["recall"]
    assert [one["value"] for one in found["recall"][TITANS]["pairs-2"].values()] == [0.3]


def test_gains_are_paired_by_seed_and_turned_round_for_bits(tmp_path):
    """Seeds differ by more than the part is worth: only pairs show it."""
    lines = []
    for seed, base in enumerate((0.2, 0.5, 0.8)):
        for level, more in (("pairs-2", 0.05), ("pairs-4", 0.03 + 0.01 * seed)):
            lines += [
                line("recall", "omega", level, seed, base + more),
                line("recall", "titans", level, seed, base),
                line("text-wikitext-2", "omega", level, seed, base + more),
                line("text-wikitext-2", "titans", level, seed, base),
            ]
    lines.append(line("recall", "omega", "pairs-2", 3, 0.0))  # without a partner
    lines.append(line("recall", "omega", "pairs-4", 3, 0.0))
    tasks = read(write(tmp_path / "lines.jsonl", lines))
    found = gain(tasks["recall"], OMEGA, TITANS)
    differences = [0.04, 0.045, 0.05]
    np.testing.assert_allclose(found.mean, np.mean(differences))
    np.testing.assert_allclose(found.half, 4.302653 * np.std(differences, ddof=1) / 3**0.5, rtol=1e-6)
    assert gain(tasks["text-wikitext-2"], OMEGA, TITANS).mean == pytest.approx(-found.mean)
    assert [row[:4] for row in gains(tasks)] == [
        ["Omega window", "recall", "+4.5 ± 1.2 points", "helps"],
        ["Omega window", "text-wikitext-2", "-0.0450 ± 0.0124 bits per byte", "hurts"],
    ]
    assert gain(tasks["recall"], OMEGA, Model("linear", "chunk-16")) is None


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.02, 0.01, "helps"),
        (-0.02, 0.01, "hurts"),
        (0.02, 0.03, "not shown to matter"),
        (-0.02, 0.03, "not shown to matter"),
        (0.5, float("inf"), "not shown to matter"),
    ],
)
def test_only_what_the_interval_shows_is_said(mean, half, verdict):
    assert Gain(mean, half).verdict == verdict


def test_one_seed_shows_nothing(tmp_path):
    lines = [line("recall", "omega", "pairs-2", 0, 0.9), line("recall", "titans", "pairs-2", 0, 0.1)]
    found = gain(read(write(tmp_path / "lines.jsonl", lines))["recall"], OMEGA, TITANS)
    assert found.mean == pytest.approx(0.8)
    assert found.verdict == "not shown to matter"


def test_the_tables_show_means_and_spreads_and_a_plot_is_drawn(tmp_path, monkeypatch, capsys):
    lines = [line("recall", "titans", level, seed, 0.5 + seed / 10) for level in ("a", "b") for seed in (0, 1)]
    lines += [line("text-wikitext-2", "atlas", "held-out", seed, 2 + seed / 10, "one-size") for seed in (0, 1)]
    path = write(tmp_path / "lines.jsonl", lines)
    monkeypatch.setattr("sys.argv", ["memory_table", "--results", str(path)])
    memory_table.main()
    said = capsys.readouterr().out
    assert said.strip() == markdown(read(path)).strip()
    assert "| titans, chunk 16 | 2.0 | 55 ± 7 | 55 ± 7 |" in said
    assert "| atlas | 2.0 | 2.050 ± 0.071 |" in said
    assert (
        said.index("Kinds of models") < said.index("**recall**") < said.index("Atlas without") < said.index("held-out")
    )
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_texts_alone_give_tables_and_no_plot(tmp_path):
    tasks = read(write(tmp_path / "lines.jsonl", [line("text-wikitext-2", "titans", "held-out", 0, 2.5)]))
    assert "| titans, chunk 16 | 2.0 | 2.500 ± " in markdown(tasks)
    draw(tasks, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
