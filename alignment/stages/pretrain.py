"""Continual pre-training on documents, and the making of the embedded base model (`initial: random`).

In: a model folder, or none with `initial: random`; documents from the data source or a file. Out: a model folder.
Held-out loss on domain and general documents is measured before and after, so that learning and forgetting show.
"""

from __future__ import annotations

import math
import random

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from alignment.adapters import adapted
from alignment.kinds import Pretrain
from alignment.likelihood import likelihoods
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.packing import RowCollator, packed_rows
from alignment.sharding import gathered
from alignment.stage import Stage
from alignment.trainers import LanguageModelTrainer, quiet, training_arguments
from data.chat import render_document
from data.files import read_documents
from data.schema import Document, UserError
from data.sources import Source, open_source
from data.tokenizer import build_tokenizer

TOKENIZER_ROWS = 6000  # questions, and as many documents, that a new tokenizer learns from


def run(stage: Stage) -> None:
    """Trains on the stage's documents and leaves the model folder in `stage.output`."""
    quiet()
    config: Pretrain = stage.config
    source = open_source(stage.data)
    documents = training_documents(stage, source)
    model, tokenizer = starting_model(stage, source, documents)
    model = adapted(model, config, seed=stage.derive("adapter"))
    rows = packed_rows([render_document(tokenizer, document) for document in documents],
                       max_length=config.max_length, split=True)
    held_out = held_out_documents(stage, source)
    before = held_out_losses(model, tokenizer, held_out)
    trainer = LanguageModelTrainer(
        model=model, args=SFTConfig(**training_arguments(stage), max_length=None,
                                    dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows, data_collator=RowCollator(tokenizer.pad_token_id), processing_class=tokenizer, stage=stage)
    trainer.run()
    after = held_out_losses(model, tokenizer, held_out)
    model = gathered(model, lambda: adapted(starting_model(stage, source, documents)[0], config,
                                            seed=stage.derive("adapter")), leads=stage.leads)
    if stage.leads:
        tokens = sum(len(ids) for ids in rows["input_ids"])
        stage.note(f"{len(documents)} documents, {tokens} tokens in {len(rows)} rows of at most {config.max_length}; "
                   f"{config.max_steps} steps see {config.max_steps * config.batch_size / len(rows):.2f} passes")
        stage.result(train_rows=len(rows), parameters=model.num_parameters(only_trainable=True),
                     **result(before, after))
        save_policy(model, tokenizer, stage.output, name=stage.name, dtype=config.save_dtype,
                    description=f"Pre-trained by finalign's stage `{stage.name}` on {len(documents)} documents.")


def training_documents(stage: Stage, source: Source) -> list[Document]:
    """Documents in an order drawn from the stage's seed. Raises UserError where there is none."""
    config: Pretrain = stage.config
    seed = stage.derive("data")
    if config.dataset is not None:
        documents = read_documents(config.dataset)
    else:
        documents = [*source.domain_documents(config.num_domain, seed=seed, split="train"),
                     *source.general_documents(config.num_general, seed=seed, split="train"),
                     *source.drills(config.num_drills, seed=seed, split="train"),
                     *source.problems(config.num_problems, seed=seed, split="train")]
    if not documents:
        raise UserError(f"{stage.name}: no documents to train on; raise num_domain, num_general or num_drills, or name "
                        "a dataset")
    random.Random(stage.derive("shuffle")).shuffle(documents)
    return documents


def starting_model(stage: Stage, source: Source,
                   documents: list[Document]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The input model, or with `initial: random` a new one whose tokenizer is trained on the stage's text."""
    config: Pretrain = stage.config
    if config.initial == "input":
        if "model" not in stage.inputs:
            raise UserError(f"{stage.name}: no input `model`; name one, or set initial: random to make a new model")
        return load_policy(stage.inputs["model"]), load_tokenizer(stage.inputs["model"])
    questions = source.questions("train", count=TOKENIZER_ROWS, seed=stage.derive("tokenizer"))
    texts = [document.text for document in documents[:TOKENIZER_ROWS]]
    tokenizer = build_tokenizer([*texts, *("\n".join((question.prompt, *question.steps)) for question in questions)],
                                vocab_size=config.vocab_size)
    model = new_model(tokenizer, hidden_size=config.hidden_size, num_layers=config.num_layers,
                      num_heads=config.num_heads, intermediate_size=config.intermediate_size,
                      architecture=config.architecture, seed=stage.derive("initial"))
    return model, tokenizer


def held_out_documents(stage: Stage, source: Source) -> dict[str, list[Document]]:
    """Documents that no training draw contains, by what they measure."""
    count, seed = stage.config.dev_documents, stage.derive("held-out")
    return {"domain": source.domain_documents(count, seed=seed, split="dev"),
            "general": source.general_documents(count, seed=seed, split="dev"),
            "drills": source.drills(count, seed=seed, split="dev")}


def held_out_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                    held_out: dict[str, list[Document]]) -> dict[str, float]:
    """Mean -log p per learnt token in nats, for every kind of document there is."""
    losses = {}
    for kind, documents in held_out.items():
        found = likelihoods(model, [render_document(tokenizer, document) for document in documents])
        if num_tokens := sum(each.num_tokens for each in found):
            losses[kind] = -sum(each.logprob for each in found) / num_tokens
    return losses


def result(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The stage's metrics: `domain_loss`, `domain_perplexity`, `domain_loss_before`, and so for general and drills."""
    metrics: dict[str, float] = {}
    for kind, loss in after.items():
        metrics |= {f"{kind}_loss": loss, f"{kind}_perplexity": math.exp(min(loss, 20.0)),
                    f"{kind}_loss_before": before[kind]}
    return metrics
