"""Where published data for trials lies, beside the checkout and never in it."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TATQA = SHARED / "tatqa" / "tatqa_dataset_dev.json"
GSM8K = SHARED / "gsm8k" / "train.jsonl"
GSM8K_SAMPLES = SHARED / "gsm8k" / "example_model_solutions.jsonl"

needs_tatqa = pytest.mark.skipif(not TATQA.is_file(), reason=f"TAT-QA's published file is not at {TATQA}")
needs_gsm8k = pytest.mark.skipif(not GSM8K.is_file(), reason=f"GSM8K's published file is not at {GSM8K}")
needs_gsm8k_samples = pytest.mark.skipif(not GSM8K_SAMPLES.is_file(),
                                         reason=f"GSM8K's published model solutions are not at {GSM8K_SAMPLES}")
