"""A finished student on the hub."""

from __future__ import annotations

from pathlib import Path

from reproductions.engine.errors import KDError

RECORD = "kd-distill.json"
LEFT_BEHIND = [".*", "evaluation.json", "replay.jsonl"]  # the latter two hold rows of the user's data


def push(output: Path, repository: str) -> str:
    """Put a student's folder on the hub, privately if it is new; returns its address. Raises KDError."""
    from huggingface_hub import HfApi

    if not (output / RECORD).is_file():
        raise KDError(f"{output}: no {RECORD}; run `kd distill` to its end first")
    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=str(output), repo_id=repository, ignore_patterns=LEFT_BEHIND)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise KDError(f"{repository}: not pushed: {' '.join(str(error).split())[:300]}") from error
    return f"https://huggingface.co/{repository}"
