"""The JSON Schema of `episode.json`, as committed in docs/episode.schema.json.

`python -m efm_core.bags.schema > docs/episode.schema.json` writes it again; a test compares.
"""

from __future__ import annotations

import json
import sys

from efm_core.episode import EpisodeRecord


def episode_schema() -> str:
    """The schema as indented JSON text with a final newline."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **EpisodeRecord.model_json_schema(),
    }
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(episode_schema())
