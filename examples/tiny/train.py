"""Make the embedded default checkpoint: a Qwen2-VL of 1.4 M parameters, pre-trained generatively on the world.

python -m examples.tiny.train OUTPUT_FOLDER --steps 5000 --seed 0

The model learns from dialogues only (`dialogues.py`), without an embedding objective: that it can embed zero-shot is
due to the prompt. The folder is in Hugging Face format, like any Qwen2-VL checkpoint.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from examples.tiny.dialogues import Dialogue, sample_dialogue
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import progress

WRITER = "tiny"  # in the record of outputs
STEPS = 5000
TOKENS_PER_STEP = 2400
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (  # Qwen2-VL's, for pictures
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(seed: int, vocabulary: int = 768) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE in Qwen2's form, trained on the dialogues."""
    rng = random.Random(seed)
    dialogues = (sample_dialogue(rng, rng.random()) for _ in range(20_000))
    corpus = (text for dialogue in dialogues for text in (dialogue.system, *sum(dialogue.turns, ())))
    blank = Qwen2Tokenizer(vocab={}, merges=[], pad_token="<|endoftext|>", eos_token="<|im_end|>")
    trained = blank.train_new_from_iterator(corpus, vocabulary, new_special_tokens=list(SPECIAL_TOKENS[1:]))
    trained.chat_template = CHAT_TEMPLATE
    return trained


def make_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLForConditionalGeneration:
    token = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
             ("endoftext", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")}  # fmt: skip
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token["endoftext"],
            "eos_token_id": token["im_end"],
            "pad_token_id": token["endoftext"],
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 2, "embed_dim": 128, "hidden_size": 128, "mlp_ratio": 3, "num_heads": 4},
        image_token_id=token["image_pad"],
        video_token_id=token["video_pad"],
        vision_start_token_id=token["vision_start"],
        vision_end_token_id=token["vision_end"],
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config)


def make_image_processor() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112})


class Batches(IterableDataset):
    """Batches of the curriculum: a pure function of (seed, steps), each of about `TOKENS_PER_STEP` padded tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, steps: int, seed: int) -> None:
        self.tokenizer, self.steps, self.seed = tokenizer, steps, seed
        self.processor = make_image_processor()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = random.Random(self.seed)
        for done in range(0, self.steps, 8):
            yield from (self._batch(rows) for rows in self._plan(rng, done / self.steps, min(8, self.steps - done)))

    def _plan(self, rng: random.Random, progress: float, count: int) -> list[list[dict]]:
        """Return `count` batches, each of rows of similar length, in random order."""
        rows: list[dict] = []
        while sum(len(row["ids"]) for row in rows) < count * TOKENS_PER_STEP:
            rows += [self._encode(sample_dialogue(rng, progress)) for _ in range(32)]
        rows.sort(key=lambda row: len(row["ids"]))
        ends = np.cumsum([len(row["ids"]) for row in rows])
        cuts = np.searchsorted(ends, ends[-1] * np.arange(count + 1) / count)
        batches = [rows[start:stop] for start, stop in pairwise(cuts)]
        rng.shuffle(batches)
        return batches

    def _encode(self, dialogue: Dialogue) -> dict:
        """Return the token ids of a dialogue, and labels for the assistant's tokens only."""
        picture = self.processor(dialogue.picture, return_tensors="pt") if dialogue.picture else None
        tokens = int(picture["image_grid_thw"].prod()) // 4 if picture else 0
        slot = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>" if picture else ""
        pieces = [(f"<|im_start|>system\n{dialogue.system}<|im_end|>\n", False)]
        for index, (user, assistant) in enumerate(dialogue.turns):
            picture_slot = slot + "\n" * bool(slot and user) if index == 0 else ""
            pieces += [(f"<|im_start|>user\n{picture_slot}{user}<|im_end|>\n<|im_start|>assistant\n", False)]
            pieces += [(f"{assistant}<|im_end|>", True), ("\n", False)]
        ids: list[int] = []
        labels: list[int] = []
        for (_, learned), piece in zip(pieces, self.tokenizer([text for text, _ in pieces])["input_ids"], strict=True):
            ids += piece
            labels += piece if learned else [-100] * len(piece)
        return {"ids": ids, "labels": labels, "picture": picture}

    def _batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        def pad(key: str, value: int) -> torch.Tensor:
            tensors = [torch.tensor(row[key]) for row in rows]
            return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        ids, labels = pad("ids", self.tokenizer.pad_token_id), pad("labels", -100)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": pad("ids", -1).ne(-1).long()}
        batch["mm_token_type_ids"] = ids.eq(self.tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
        if pictures := [row["picture"] for row in rows if row["picture"]]:
            batch |= {key: torch.cat([p[key] for p in pictures]) for key in ("pixel_values", "image_grid_thw")}
        return batch


def train(
    steps: int = STEPS, seed: int = 0, device: str = "cpu"
) -> tuple[Qwen2VLForConditionalGeneration, PreTrainedTokenizerBase, list[float]]:
    """Pre-train a model, and return it with its tokenizer and the loss of each step."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    model = make_model(tokenizer).to(device).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    known = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 20, (1 - step / steps) / 0.6))
        for o in optimisers
    ]
    losses = []
    with progress("pre-training", steps) as advance:
        for batch in DataLoader(Batches(tokenizer, steps, seed), batch_size=None, num_workers=1):
            labels = batch.pop("labels").to(device)[:, 1:]
            inputs = {key: value.to(device) for key, value in batch.items()}
            hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
            learned = labels != -100
            loss = nn.functional.cross_entropy(model.lm_head(hidden[learned]), labels[learned])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()
            model.zero_grad()
            losses.append(loss.item())
            advance(description=f"pre-training, loss {np.mean(losses[-20:]):.3f}")
    return model, tokenizer, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        check_folder(args.output_folder, by=WRITER)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    model, tokenizer, losses = train(args.steps, args.seed, args.device)

    def save(folder: Path) -> None:
        model.to("cpu", torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        make_image_processor().save_pretrained(folder)

    replace_folder(args.output_folder, save, by=WRITER)
    print(f"loss {np.mean(losses[-50:]):.3f} over the last 50 steps; saved to {args.output_folder}")


if __name__ == "__main__":
    main()
