"""`dreamr pair add` as far as files go: what it writes, and what it says of folders that will not do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from dreamr.cli.main import app
from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.triton import MODELS
from dreamr.pair.adding import Added, add_pair
from dreamr.pair.checks import check_pair
from dreamr.pair.model_folder import PairFolderError
from dreamr.pair.probe import Probe, Said
from dreamr.v1 import common_pb2
from services.common.pair import Pair
from services.common.prompts import Prompts
from tests.tiny_model import TEMPLATE, make_tiny_model, tiny_tokenizer

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for text alone."""
    folder, tokenizer = tmp_path_factory.mktemp("text"), tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def add(into: Path, target: Path, draft: Path, *, copy: bool = False) -> Added:
    return add_pair("own", target=target, draft=draft, into=into, copy=copy)


def test_what_is_written_is_what_a_cluster_takes(tiny: Path, tmp_path: Path) -> None:
    draft = shutil.copytree(tiny, tmp_path / "draft")
    added = add(tmp_path / "own", tiny, draft)
    assert added.warnings == []
    assert PairFiles.of(str(added.settings), None, tmp_path).repository == added.repository.resolve()
    pair = Pair.load(added.settings)
    assert (pair.name, pair.reasoning.max_images) == ("own", 8)
    model = json.loads((added.repository / "draft" / "1" / "model.json").read_text())
    assert (model["model"], model["max_model_len"]) == (str(draft), 512)
    assert 'backend: "transformers"' in (added.repository / "target" / "config.pbtxt").read_text()
    assert Prompts(pair.target.template, pair.reasoning).reasoning("why ?", 1, ()) == (
        "<|user|><image>why ?<|end|><|assistant|><think>\n"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_copied_weights_make_the_folder_one_that_can_be_moved(tiny: Path, tmp_path: Path) -> None:
    draft = shutil.copytree(tiny, tmp_path / "draft")
    add(tmp_path / "own", tiny, draft, copy=True)
    shutil.rmtree(draft)
    moved = (tmp_path / "own").rename(tmp_path / "moved")
    assert check_pair(Pair.load(moved / "pair.toml"), moved / "repository") == []


def test_the_bundled_pair_passes_its_own_checks() -> None:
    assert check_pair(Pair.load(MODELS / "bundled.toml"), MODELS / "repository") == []


def test_vllm_is_served_as_on_the_projects_own_gpus(tiny: Path, text: Path, tmp_path: Path) -> None:
    added = add_pair("own", target=tiny, draft=text, into=tmp_path / "own", backend="vllm")
    target, draft = (
        json.loads((added.repository / role / "1" / "model.json").read_text()) for role in ("target", "draft")
    )
    assert target["limit_mm_per_prompt"] == {"image": 0, "video": 0}
    assert "limit_mm_per_prompt" not in draft
    assert (target["max_logprobs"], target["gpu_memory_utilization"]) == (20, 0.9)
    assert 'backend: "vllm"' in (added.repository / "draft" / "config.pbtxt").read_text()
    assert ["takes no images" in found.text for found in added.warnings] == [True]


def edit(name: str, **changes: object) -> Break:
    """Changes keys of a JSON file; None takes a key away."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(
            json.dumps({key: value for key, value in values.items() if value is not None})
        )

    return change


def special_close(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["special"] or token["content"] == "</think>"
    path.write_text(json.dumps(tokenizer))


def template(text: str) -> Break:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def write(name: str, text: str) -> Break:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove("config.json"), "has no config.json"),
        (write("config.json", "{"), "cannot be read as JSON"),
        (edit("config.json", model_type=None), "has no model_type"),
        (edit("config.json", model_type="clip"), "model_type 'clip' writes no text"),
        (edit("config.json", model_type="own", auto_map={}), "a model by code of its own"),
        (remove("model.safetensors"), r"has no weights \(\*.safetensors\)$"),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "b.bin"}}'),
            "has no b.bin",
        ),
        (remove("tokenizer.json"), "has no tokenizer"),
        (remove("processor_config.json"), "no image processor"),
        (remove("chat_template.jinja"), "has no chat template"),
        (template("{{ raise_exception('no') }}"), "the chat template fails on a question: no"),
        (template("{% for m in messages %}{{ m.role }}{% endfor %}"), "leaves out a question"),
        (template(TEMPLATE.replace("<image>", "")), "writes nothing for an image"),
        (template("{{ messages[-1].content }}"), "drops the assistant's turn"),
        (special_close, "</think> is a special token"),
    ],
)
def test_a_folder_that_will_not_do_is_told_and_nothing_is_left(
    tiny: Path, tmp_path: Path, spoil: Break, says: str
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "broken")
    spoil(folder)
    with pytest.raises(PairFolderError, match=says) as caught:
        add(tmp_path / "own", folder, tiny)
    assert all(line.startswith("target: ") for line in str(caught.value).splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (template(TEMPLATE.replace("<think>\n", "")), "neither opens nor leaves out"),
        (edit("tokenizer_config.json"), "the same folder"),
    ],
)
def test_what_may_go_wrong_is_a_warning(tiny: Path, tmp_path: Path, spoil: Break, says: str) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    spoil(folder)
    assert says in " ".join(found.text for found in add(tmp_path / "own", folder, folder).warnings)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('positive = "positive"', 'positive = "\u00e9\u00e9"', "has no token that begins the judge's word"),
        ('positive = "positive"', 'positive = "stepwise"', "'stepwise' is no token of the target"),
        ("max_images = 8", "max_images = 9", "allows 8 images, max_images 9"),
        ("max_reasoning_tokens = 256", "max_reasoning_tokens = 500", "does not hold reasoning and answer"),
        ('delimiter = "\\n\\n"', 'delimiter = "\\u2603"', "does not keep the delimiter"),
    ],
)
def test_settings_that_were_changed_are_checked(
    tiny: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    added = add(tmp_path / "own", tiny, tiny)
    settings = added.settings.read_text()
    assert old in settings
    added.settings.write_text(settings.replace(old, new))
    assert says in " ".join(found.text for found in check_pair(Pair.load(added.settings), added.repository))


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65])
def test_names_that_cannot_stand_in_a_path_are_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(PairFolderError, match="must be letters"):
        add_pair(name, target=tiny, draft=tiny, into=tmp_path / "own")


def test_on_the_command_line(tiny: Path, text: Path, tmp_path: Path) -> None:
    into = str(tmp_path / "own")
    arguments = [
        "pair",
        "add",
        "own",
        "--target",
        str(tiny),
        "--draft",
        str(text),
        "--into",
        into,
        "--no-probe",
    ]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (0, f"{into}/pair.toml\n")
    assert "takes no images" in done.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    checked = CliRunner().invoke(app, ["pair", "check", f"{into}/pair.toml", "--no-probe"])
    assert (checked.exit_code, checked.stdout) == (0, "ok\n")
    (tmp_path / "own" / "repository" / "draft" / "config.pbtxt").unlink()
    broken = CliRunner().invoke(app, ["pair", "check", f"{into}/pair.toml", "--no-probe"])
    assert broken.exit_code == 1
    assert "is no model as" in broken.stderr


def test_a_probe_warns_of_a_slow_draft_and_a_silent_judge() -> None:
    verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_LOW_MASS)
    slow, fast = Said("", 2, 0.1, 10.0), Said("", 2, 0.1, 40.0)
    found = Probe(target=fast, draft=slow, verdict=verdict)
    assert ["not faster" in text or "neither" in text for text in found.warnings()] == [True, True]
    verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_SCORE)
    assert Probe(target=slow, draft=fast, verdict=verdict).warnings() == []
