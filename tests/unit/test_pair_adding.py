"""`dreamr pair add` as far as files go: what it writes, and what it says of folders that will not do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from dreamr.cli.main import app
from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.triton import MODELS
from dreamr.pair.adding import Added, add_pair
from dreamr.pair.checks import check_pair
from dreamr.pair.gguf import convert
from dreamr.pair.model_folder import ModelFolder, PairFolderError
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


def instead_of_config(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / "config.json").unlink()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    return change


def cut_off(name: str) -> Break:
    """As a download that was broken off leaves a file."""

    def change(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return change


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove("config.json"), "has no config.json"),
        (instead_of_config("model.gguf"), "holds a GGUF file; make a folder of it by `dreamr pair convert`"),
        (instead_of_config("adapter_config.json"), "is an adapter"),
        (instead_of_config("snapshots/5f/config.json"), "give the folder within its snapshots"),
        (write("config.json", "{"), "cannot be read as JSON"),
        (edit("config.json", text_config=5), "is not what transformers takes"),
        (edit("config.json", model_type=None), "has no model_type"),
        (edit("config.json", model_type="clip"), "model_type 'clip' writes no text"),
        (edit("config.json", model_type="own", auto_map={}), "a model by code of its own"),
        (remove("model.safetensors"), r"has no weights \(\*.safetensors\)$"),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (cut_off("model.safetensors"), "model.safetensors: is broken or cut off"),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "b.bin"}}'),
            "has no b.bin",
        ),
        (write("model.safetensors.index.json", '{"weight_map": []}'), "has no weight_map"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors"),
            "has shards, but not their model.safetensors.index.json",
        ),
        (remove("tokenizer.json"), "has no tokenizer"),
        (remove("processor_config.json"), "no image processor"),
        (remove("chat_template.jinja"), "has no chat template"),
        (
            lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"),
            "cannot be read as text",
        ),
        (template("{{ raise_exception('no') }}"), "broken: the chat template fails on a question: no"),
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
        (edit("config.json", quantization_config={"quant_method": "awq"}), "quantized (awq)"),
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


def test_what_breaks_it_off_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[Path] = []

    def interrupted(pair: Pair, repository: Path) -> NoReturn:
        staged.append(repository)
        assert (repository / "target" / "1" / "weights" / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamr.pair.adding.check_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path / "own", tiny, tiny, copy=True)
    assert len(staged) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_first(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(PairFolderError, match="none: is no folder"):
        add(tmp_path / "none" / "own", tiny, tiny)
    (tmp_path / "own").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PairFolderError, match="is there already"):
        add(tmp_path / "own", tiny, tiny)


def test_a_file_in_the_place_of_a_folder_is_told(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(PairFolderError, match=r"model.gguf: is a GGUF file.*pair convert"):
        add(tmp_path / "own", file, tiny)
    with pytest.raises(PairFolderError, match=r"not installed: gguf|cannot be read by transformers"):
        convert(file, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_models_own_name_for_its_context_is_known(text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(text, tmp_path / "gpt2")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 192}))
    assert ModelFolder.read(folder).context == 192


def test_marks_in_a_file_of_their_own_reach_the_prompt(text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(text, tmp_path / "older")
    template("{{ bos_token }}" + TEMPLATE)(folder)
    edit("tokenizer_config.json", bos_token=None)(folder)
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|begin|>"}}')
    pair = Pair.load(add(tmp_path / "own", folder, text).settings)
    assert (
        Prompts(pair.target.template, pair.reasoning)
        .reasoning("why ?", 0, ())
        .startswith("<|begin|><|user|>")
    )


def test_vllm_is_not_given_a_path_that_it_would_look_for_elsewhere(text: Path, tmp_path: Path) -> None:
    with pytest.raises(PairFolderError, match="copies are not for vLLM"):
        add_pair("own", target=text, draft=text, into=tmp_path / "own", backend="vllm", copy=True)
    added = add_pair("own", target=text, draft=text, into=tmp_path / "own", backend="vllm")
    model = added.repository / "draft" / "1" / "model.json"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"model": "weights"}))
    (error,) = [
        one for one in check_pair(Pair.load(added.settings), added.repository) if one.level == "error"
    ]
    assert "must be an absolute path" in error.text


def test_code_of_a_models_own_is_vllms_to_run_or_not(text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(text, tmp_path / "coded")
    edit("config.json", model_type="own", auto_map={})(folder)
    added = add_pair("own", target=folder, draft=text, into=tmp_path / "own", backend="vllm")
    assert any("trust_remote_code" in found.text for found in added.warnings)


@pytest.mark.parametrize("limits", [5, {"image": "8"}])
def test_limits_of_another_form_are_told(tiny: Path, tmp_path: Path, limits: object) -> None:
    added = add(tmp_path / "own", tiny, tiny)
    edit("model.json", limit_mm_per_prompt=limits)(added.repository / "draft" / "1")
    (error,) = [
        one for one in check_pair(Pair.load(added.settings), added.repository) if one.level == "error"
    ]
    assert "limit_mm_per_prompt must be an object" in error.text


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
    shutil.rmtree(tmp_path / "own" / "repository")
    gone = CliRunner().invoke(app, ["pair", "check", f"{into}/pair.toml", "--no-probe"])
    assert gone.exit_code == 1
    assert "repository: is not there" in gone.stderr


def test_a_pair_for_gpus_is_checked_and_not_tried_out(text: Path, tmp_path: Path) -> None:
    added = add_pair("own", target=text, draft=text, into=tmp_path / "own", backend="vllm")
    checked = CliRunner().invoke(app, ["pair", "check", str(added.settings)])
    assert (checked.exit_code, checked.stdout) == (0, "ok\n"), checked.output
    assert "not tried out" in checked.stderr


def test_a_probe_warns_of_a_slow_draft_and_a_silent_judge() -> None:
    verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_LOW_MASS)
    slow, fast = Said("", 2, 0.1, 10.0), Said("", 2, 0.1, 40.0)
    found = Probe(target=fast, draft=slow, verdict=verdict)
    assert ["not faster" in text or "neither" in text for text in found.warnings()] == [True, True]
    verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_SCORE)
    assert Probe(target=slow, draft=fast, verdict=verdict).warnings() == []
    (warning,) = Probe(target=Said("", 0, 0.1, 0.0), draft=fast, verdict=verdict).warnings()
    assert "the target ends its turn at once" in warning
