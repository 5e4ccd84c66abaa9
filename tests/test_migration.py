"""docs/migration.md: every flag of the reference is on it, and every override composes and is valid."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from gen2embed import UserError
from gen2embed.config import schema, values
from gen2embed.config.presets import compose_shipped

PAGE = (REPOSITORY / "docs/migration.md").read_text()
NEEDED = {"data=pairs": ["data.path=my.csv"], "model=base": ["model.path=some/model"]}
FLAGS = {  # of the reference's README, and of src/arguments.py and cli/ at 3ea7803
    "README": "model_name model_name_or_path data_dir prompt_mode eval_split output_dir num_hard_negatives "
    "pool_multiplier processed_data_path lora_rank learning_rate num_epochs batch_size nproc_per_node",
    "ModelArguments": "model_name model_backbone processor_name model_type checkpoint_path pooling normalize "
    "temperature lora lora_r lora_alpha lora_dropout lora_target_modules prompt_tuning num_crops",
    "DataArguments": "dataset_name split_name subset_name dataset_split num_sample_per_subset image_dir "
    "encode_output_path max_len embedding_type image_resolution use_text_data Q_prompt D_prompt",
    "TrainingArguments": "image_encoder_freeze output_dir project_name from_ckpt logging_steps num_train_epochs "
    "grad_cache gc_q_chunk_size gc_p_chunk_size joint_training use_batch_sampling hard_negatives",
    "MTEBArguments": "task_types tasks",
    "cli": "apply_represent_prompt in_one_word_D in_one_word_Q top_k pool_mult",
}
values.register_resolvers()


def rows():
    """(what is there, entry points, each alternative's overrides) of every row of the tables of flags."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and cells[1] not in ("for", "---"):
            there, entries, ours, _ = cells
            yield there, entries, [] if ours == "none" else re.findall(r"`([^`]+)`", ours)


ROWS = list(rows())
CASES = [
    (entry, overrides)
    for _, entries, choices in ROWS
    for entry in (["mine", "train", "eval"] if entries == "all" else entries.split(", "))
    for overrides in choices
]
# In the prose and the notes, of train.py, which has all groups.
CASES += [("train", said) for said in re.findall(r"`([a-z_.]+=[\w.\[\],/-]+)`", PAGE)]


def by_group(said):
    """The overrides of one line by the part of the configuration that they change."""
    groups = {}
    for override in shlex.split(said):
        group = override.partition("=")[0].partition(".")[0]
        groups.setdefault({"strategy": "trainer"}.get(group, group), []).append(override)
        groups[group] = groups.get(group, []) + NEEDED.get(override, [])
    return groups


def together(entry):
    """The lines for an entry point in as few configurations as hold them all: composing takes a fifth of a second."""
    merged = []
    for said in dict.fromkeys(overrides for its, overrides in CASES if its == entry):
        groups = by_group(said)
        fits = (held for held in merged if all(held.get(group, its) == its for group, its in groups.items()))
        if (held := next(fits, None)) is None:
            merged.append(held := {})
        held.update(groups)
    return [[override for its in held.values() for override in its] for held in merged]


def test_every_flag_of_the_reference_is_there():
    shown = {flag for there, _, _ in ROWS for flag in re.findall(r"`--(\w+)", there)}
    flags = {flag for names in FLAGS.values() for flag in names.split()}
    assert len(flags) > 50
    assert flags <= shown, flags - shown
    assert len(CASES) > 90


@pytest.mark.parametrize("entry", ["mine", "train", "eval"])
def test_every_override_is_valid(entry):
    given = together(entry)
    assert len(given) > 3
    for overrides in given:
        cfg = compose_shipped(entry, overrides)
        cfg.output_dir = "outputs/x"  # Hydra's clock runs in a program only
        schema.check(cfg, entry, overrides)


def test_a_wrong_override_is_seen():
    with pytest.raises(UserError, match=r"mining.top_k='x' is not valid"):
        schema.check(compose_shipped("mine", ["mining.top_k=x", "output_dir=x"]), "mine", [])
