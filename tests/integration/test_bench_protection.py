"""The short version of tools/bench_protection.py: the figures are there; times and memory are never judged."""

import json

import bench_protection


def test_the_figures_of_the_smallest_network(tmp_path):
    out = tmp_path / "bench.json"
    words = ["--networks", "resnet20", "--codes", "secded", "--opsets", "18", "--repeats", "1", "--runs", "1"]
    assert bench_protection.main([*words, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["complete"]
    found = report["networks"]["resnet20"]["18"]
    assert set(found["protected"]) == {"secded"}
    figures = found["protected"]["secded"]
    assert 1 < figures["ratio_bytes"] < 1.05
    assert min(figures["ratio_creation"], figures["ratio_run"], found["plain"]["memory_mb"]) > 0
