"""Save what `Embedder.from_pretrained` loads again, in a folder or on the hub.

An adapted model is saved as its adapter, which names its base; any other one, a merged one included, as a whole
checkpoint with tokenizer and image processor. Beside either lies `gen2embed.json`, with prompt and resolution. What a
process chooses for itself is not saved: dtype, device, max_length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import huggingface_hub as hub
import peft

from gen2embed.data.pictures import Resolution
from gen2embed.model.adapter import save
from gen2embed.model.backbone import Backbone
from gen2embed.model.prompts import Prompt
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.types import UserError, first_line
from gen2embed.utils.log import log


def save_pretrained(backbone: Backbone, prompt: Prompt, resolution: Resolution, folder: Path) -> None:
    """Save to a new or an empty folder; it is there as a whole, or not at all.

    Raises `UserError` for a folder that holds something, as what was there could be taken for a part of it, and for one
    in that of the model.
    """
    output = check_folder(folder, inputs=[Path(backbone.name)])
    replace_folder(output, lambda unfinished: save(backbone, prompt, resolution, unfinished), by=None)


def push_to_hub(
    backbone: Backbone,
    prompt: Prompt,
    resolution: Resolution,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what `save_pretrained` saves; returns the address of the commit. Raises `UserError` for a refusal.

    revision: a branch, which is made from main if it is not there.
    """
    if isinstance(backbone.full, peft.PeftModel) and Path(backbone.name).is_dir():
        log.warning(
            "the adapter names its base %s, a folder of this machine: who loads %s gives a base as path, and it as "
            "adapter",
            backbone.name,
            repo_id,
        )
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="gen2embed-") as folder:
        save(backbone, prompt, resolution, Path(folder))
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message="Upload an embedder"
            )
        except (OSError, ValueError) as error:  # of the connection, of the hub's answer, or for the name
            first = first_line(error)
            raise UserError(f"the model could not be uploaded to {repo_id}: {first}; see `hf auth login`") from error
    return commit.commit_url
