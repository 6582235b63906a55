"""What the README and the manual's pages tell one to type: it parses, and what is marked as tested runs."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from resq_deploy.cli import _COMMANDS
from resq_deploy.cli import guide as guide_command
from resq_deploy.errors import OptionError
from resq_deploy.networks.registry import build_network

TOP = pathlib.Path(__file__).parents[2]
GUIDE = TOP / "resq_deploy/guide"
PAGES = [TOP / "README.md", *sorted(GUIDE.glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- tested: (?P<name>\w+) -->\n)?^```(?:sh|console)\n(?P<text>.*?)^```$", re.M | re.S)


def commands(text):
    """Yield the arguments of each call of resq-deploy in a shell block."""
    whole = re.sub(r"\\\n\s*", " ", text)
    for line in whole.splitlines():
        for part in re.split(r"&&|\|(?!\|)|&\s*$", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            if words and words[0].endswith("resq-deploy"):
                yield words[1:]
            elif "resq_deploy" in words:
                yield words[words.index("resq_deploy") + 1 :]


def all_commands():
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            for words in commands(block["text"]):
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words)}"[:100])


@pytest.mark.parametrize("words", [*all_commands()])
def test_a_command_that_is_told_exists_with_its_options(words):
    name, *arguments = words
    module = importlib.import_module(f"resq_deploy.cli.{name.replace('-', '_')}")
    module.command.make_context(name, arguments)  # raises click.UsageError


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), target
            if heading:
                anchors = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings(found)]
                assert heading in anchors, target


def headings(page):
    return [line.lstrip("# ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")]


def test_the_readme_can_be_read_in_two_minutes():
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(guide_command.command, arguments, catch_exceptions=False, standalone_mode=False)

    def test_each_page_has_a_topic_and_each_topic_a_page(self):
        assert set(guide_command.TOPICS) == {page.stem for page in GUIDE.glob("*.md")}

    def test_without_a_topic_all_are_listed(self):
        lines = self.invoke().output.splitlines()
        assert [line.split()[0] for line in lines] == list(guide_command.TOPICS)

    def test_a_page_is_printed_as_it_is_where_no_terminal_is(self):
        assert self.invoke("figures").output == (GUIDE / "figures.md").read_text(encoding="utf-8")

    def test_a_slip_is_one_line_with_a_hint(self):
        with pytest.raises(OptionError, match="no page 'figure': did you mean figures"):
            self.invoke("figure")

    def test_the_command_is_listed(self):
        assert "guide" in _COMMANDS


def photos(folder):
    """Write images of four classes that a small network learns at once: where the bright square is."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        for place, name in enumerate(("north", "east", "south", "west")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3))
                row, column = ((2, 11), (11, 20), (20, 11), (11, 2))[place]
                pixels[row : row + 10, column : column + 10] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")


def weights(path):
    """Write a state_dict as a user's training leaves it: here, of few steps on the training images."""
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=4, mean=(0.3,) * 3, std=(0.2,) * 3)
    files = sorted((path.parent / "photos/train").rglob("*.png"))
    names = ["east", "north", "south", "west"]
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255 for file in files]
    )
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        for chosen in torch.randperm(len(images)).split(40):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.body.state_dict().items()}}, path)


def marked():
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if block["name"]:
                yield pytest.param(block["text"], id=f"{page.stem}-{block['name']}")


# What is told takes minutes with the defaults; these change how long it takes, and nothing of what is tested.
SHORTER = {
    "train": ("--epochs-attack", "2", "--epochs-fault", "2"),
    "attackcamp": ("--images", "16", "--queries", "200"),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", [*marked()])
def test_what_is_marked_as_tested_runs(text, tmp_path):
    (tmp_path / "models").symlink_to(TOP / "models")
    if "photos" in text:
        photos(tmp_path / "photos")
        weights(tmp_path / "mine.pth")
    for words in commands(text):
        done = subprocess.run(
            [sys.executable, "-m", "resq_deploy", *words, *SHORTER.get(words[0], ())],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    report = next(tmp_path.glob("*.html"))
    assert "<html" in report.read_text(encoding="utf-8")
