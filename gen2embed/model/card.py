"""What lies beside saved weights, `gen2embed.json`.

It holds the prompt and the resolution, the pooling where it is not the last token, the base, and the weights' digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen2embed.model.pooling import LAST, LastToken, Pooling, describe_pooling
from gen2embed.model.prompts import Prompt
from gen2embed.model.resolution import Resolution
from gen2embed.utils.errors import UserError
from gen2embed.utils.facts import digest_of
from gen2embed.utils.files import write_json
from gen2embed.utils.fingerprints import differences, json_values
from gen2embed.utils.redaction import expanded, redacted

if TYPE_CHECKING:
    from gen2embed.model.embedder import Embedder

CARD = "gen2embed.json"


class CardSettings(NamedTuple):
    """The settings that a checkpoint carries, as it was trained with them."""

    prompt: Prompt
    resolution: Resolution
    pooling: Pooling = LastToken()

    @classmethod
    def from_embedder(cls, embedder: Embedder) -> CardSettings:
        """Return the settings of an embedder."""
        return cls(embedder.build.prompt, embedder.build.resolution, embedder.pooling)

    def describe(self) -> dict[str, Any]:
        """Return plain values. Cards without a pooling, of which earlier versions wrote many, mean the last token."""
        described = {"prompt": self.prompt.describe(), "resolution": self.resolution.describe()}
        return described if self.pooling == LastToken() else {**described, "pooling": describe_pooling(self.pooling)}


def is_adapter(path: str | Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (Path(path) / "adapter_config.json").is_file()


def base_of(folder: Path) -> tuple[str | None, str | None]:
    """Return the base model that an adapter names, if any, and its revision on the hub."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return expanded(config.get("base_model_name_or_path")), config.get("revision")


def saved_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a saved adapter under the names of `Lora`; raises `UserError` for another kind."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"the adapter {folder} is of kind {config.get('peft_type')}; only LoRA and DoRA are trained further"
        )
    targets = config["target_modules"]
    return {
        "r": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config["lora_dropout"],
        "dora": bool(config.get("use_dora")),
        "vision": config.get("exclude_modules") is None,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return the card of a checkpoint; empty for one that was not saved by gen2embed."""
    card = Path(folder) / CARD
    return json.loads(card.read_text()) if card.is_file() else {}


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write a card with the SHA-256 of each file of weights in the folder."""
    weights = {path.name: digest_of(path, "sha256") for path in sorted(folder.glob("*.safetensors"))}
    write_json(folder / CARD, {**redacted(card), "sha256": weights})


def check_weights(folder: Path) -> None:
    """Raise `UserError` unless the weights have the digests of the card; a card without digests is fine."""
    for name, recorded in read_card(folder).get("sha256", {}).items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"{folder / CARD} lists {name}, which is missing; copy the whole folder again")
        if (digest := digest_of(path, "sha256")) != recorded:
            raise UserError(
                f"the weights {path} are not those that were saved: their SHA-256 is {digest[:12]}..., and {CARD} "
                f"says {recorded[:12]}...; copy the folder again, or remove sha256 from the card if you changed them"
            )


def card_differences(card: Mapping[str, Any], settings: CardSettings) -> list[str]:
    """Return, in words, how settings differ from those that a checkpoint was trained with."""
    current = json_values({"pooling": LAST, **settings.describe()})
    card = {"pooling": LAST, **card} if card else {}
    keys = card.keys() & current.keys()
    return differences({key: card[key] for key in keys}, {key: current[key] for key in keys})
