"""Tuning: searches the hyper-parameters of a part and of its baselines on validation with Optuna, with as many trials
each, and writes them into the recipe."""

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
import tomlkit
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, FixedTrial

from musix_runtime.errors import InputError
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import benchmark, metrics
from musix_trainer.evaluation.baselines import BASELINES, Scorer
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate
from musix_trainer.evaluation.protocols.collab import K, interaction_matrices, lightfm_scorer
from musix_trainer.evaluation.protocols.genre import FOLDS
from musix_trainer.models import collab
from musix_trainer.models.genre.training import fit as fit_genre
from musix_trainer.pipeline import deterministic, tables_of
from musix_trainer.recipe import Recipe, RecipeFile

Objective = Callable[[BaseTrial], NDArray[np.float64]]  # values by listener or fold, whose mean is maximised


def tune(recipe_file: RecipeFile, data: Path | None, part: str, trials: int, studies: Path) -> str:
    """Return the recipe's text with the values that are best on validation.

    The objective is NDCG@10 in full ranking for collab and each baseline, and mean macro-F1 over five folds for genre.
    The test part is not used. The trials are stored in `studies`, and reused. What collab is better by than each
    baseline on validation is printed. Raises InputError for a recipe without tracks when genre is tuned.
    """
    settings = recipe_file.recipe
    if settings.source == "lastfm":
        catalogue, interactions = None, benchmark.read(settings, data)
    else:
        catalogue, interactions = tables_of(recipe_file, data)
    if part == "genre":
        if catalogue is None:
            raise InputError(f"{recipe_file.path}: expected a recipe with tracks to tune genre, found none")
        objectives: dict[str, Objective] = {"genre": _genre_objective(catalogue, settings)}
    else:
        objectives = _collab_objectives(catalogue, interactions, settings)
    studies.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(studies / f"{settings.label}.{part}.{recipe_file.sha256[:12]}.journal"))
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with deterministic():
        studies_by_name = {
            name: _search(name, objective, trials, JournalStorage(backend), settings.seed)
            for name, objective in objectives.items()
        }
        _compare(objectives, studies_by_name)
    return _tuned_recipe(recipe_file, part, studies_by_name, trials)


def _search(name: str, objective: Objective, trials: int, storage: JournalStorage, seed: int) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    done = len([trial for trial in study.trials if trial.value is not None])
    for _ in progress.steps(f"tuning {name}: trials", max(trials - done, 0)):
        study.optimize(lambda trial: float(objective(trial).mean()), n_trials=1)
    progress.say(f"{name}: {study.best_value:.4f} with {study.best_params}")
    return study


def _compare(objectives: dict[str, Objective], studies: dict[str, optuna.Study]) -> None:
    """Print by how much the first of the models is better than each other one, with intervals over listeners."""
    values = {name: objective(FixedTrial(studies[name].best_params)) for name, objective in objectives.items()}
    own, *others = (ClusteredMetric.mean(each, np.arange(len(each))) for each in values.values())
    name, *baselines = values
    for baseline, each in estimate(own, dict(zip(baselines, others, strict=True)))["better_by"].items():
        progress.say(f"{name} - {baseline}: {each['value']:+.4f} ({each['low']:+.4f} to {each['high']:+.4f})")


def _collab_objectives(catalogue: Tracks | None, interactions: Interactions, settings: Recipe) -> dict[str, Objective]:
    artists, numbers = (catalogue.primary_artists(), catalogue.artist_numbers) if catalogue else ([], None)
    parts = split.split_interactions(interactions, artists, settings.split, settings.seed)
    train, validation = (interactions.select(parts == part) for part in (split.TRAIN, split.VALIDATION))
    history, relevant, columns = interaction_matrices(train, validation)
    listeners = np.flatnonzero(np.diff(relevant.indptr))

    def ndcg(scorer: Scorer) -> NDArray[np.float64]:
        ranks = []
        for start in range(0, len(listeners), metrics.USER_BATCH):
            batch = listeners[start : start + metrics.USER_BATCH]
            ranks += metrics.full_ranks(scorer(batch), history[batch], relevant[batch])
        return metrics.ndcg(ranks, K)

    def lightfm(trial: BaseTrial) -> NDArray[np.float64]:
        values = msgspec.structs.replace(settings.collab, **_collab_values(trial))
        return ndcg(lightfm_scorer(collab.train(train, values, settings.seed, numbers), train, columns))

    def baseline(name: str, values: Callable[[BaseTrial], dict[str, Any]]) -> Objective:
        return lambda trial: ndcg(BASELINES[name](history, settings.seed, **values(trial)))

    return {
        "collab": lightfm,
        "ItemKNN": baseline("ItemKNN", lambda t: {"neighbours": t.suggest_int("neighbours", 10, 500, log=True)}),
        "EASE": baseline("EASE", lambda t: {"penalty": t.suggest_float("penalty", 10, 3000, log=True)}),
        "iALS": baseline("iALS", _ials_values),
        "BPR": baseline("BPR", _bpr_values),
    }


def _collab_values(trial: BaseTrial) -> dict[str, Any]:
    return {
        "loss": trial.suggest_categorical("loss", ["warp", "bpr"]),
        "learning_schedule": trial.suggest_categorical("learning_schedule", ["adagrad", "adadelta"]),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1, log=True),
        "no_components": trial.suggest_int("no_components", 32, 192, step=16),
        "epochs": trial.suggest_int("epochs", 10, 100, step=10),
        "item_alpha": trial.suggest_float("item_alpha", 1e-7, 1e-3, log=True),
        "user_alpha": trial.suggest_float("user_alpha", 1e-7, 1e-3, log=True),
    }


def _ials_values(trial: BaseTrial) -> dict[str, Any]:
    return {
        "factors": trial.suggest_int("factors", 16, 192, step=16),
        "regularization": trial.suggest_float("regularization", 0.01, 100, log=True),
        "alpha": trial.suggest_float("alpha", 0.5, 50, log=True),
        "iterations": trial.suggest_int("iterations", 5, 25, step=5),
    }


def _bpr_values(trial: BaseTrial) -> dict[str, Any]:
    return {
        "factors": trial.suggest_int("factors", 16, 192, step=16),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.2, log=True),
        "regularization": trial.suggest_float("regularization", 1e-4, 0.1, log=True),
        "iterations": trial.suggest_int("iterations", 50, 300, step=50),
    }


def _genre_objective(catalogue: Tracks, settings: Recipe) -> Objective:
    """Return the objective of genre: mean macro-F1 over five folds of the recordings outside of the test part."""
    own = settings.genre
    catalogue = catalogue.with_family()
    usable = np.flatnonzero(split.assign(len(catalogue), own.validation, own.test, settings.seed) != split.TEST)
    folds = np.random.default_rng(settings.seed).permutation(len(usable)) % FOLDS

    def objective(trial: BaseTrial) -> NDArray[np.float64]:
        values = msgspec.structs.replace(
            own,
            max_depth=trial.suggest_int("max_depth", 4, 10),
            learning_rate=trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
            n_estimators=trial.suggest_int("n_estimators", 50, 400, step=50),
            subsample=trial.suggest_float("subsample", 0.5, 1.0),
            colsample_bytree=trial.suggest_float("colsample_bytree", 0.5, 1.0),
        )
        scores = []
        for fold in range(FOLDS):
            test, others = usable[folds == fold], usable[folds != fold]
            parts = np.full(len(catalogue), split.TEST, np.int8)
            parts[others] = split.assign(len(others), own.validation, 0, settings.seed)
            model = fit_genre(catalogue, parts, values, settings.seed)
            confidence = model.confidence(catalogue.inputs[test], *catalogue.texts(test))
            scores.append(metrics.macro_f1(confidence, catalogue.families[test]))
        return np.array(scores)

    return objective


def _tuned_recipe(recipe_file: RecipeFile, part: str, studies: dict[str, optuna.Study], trials: int) -> str:
    """Return the recipe's text with the best values and the section `tuned`; comments are preserved."""
    document = tomlkit.parse(recipe_file.text.decode())
    values = studies[part].best_params
    section = document.setdefault(part, tomlkit.table())
    added = {key: value for key, value in values.items() if key not in section}
    section.update({key: value for key, value in values.items() if key in section})
    tuned = document.setdefault("tuned", tomlkit.table())
    log = [(name, trial.number, trial.params, trial.value) for name, study in studies.items() for trial in study.trials]
    tuned["study"] = hashlib.sha256(msgspec.json.encode(log)).hexdigest()
    counts = tuned.setdefault("trials", tomlkit.table())
    for name in studies:
        counts[name] = trials
    baselines = {name: study.best_params for name, study in studies.items() if name != part}
    if baselines:
        tuned["baselines"] = baselines
    text = tomlkit.dumps(document)
    # Directly below the section's header: at its end they would follow the comment of the next section.
    header = re.search(rf"^\[{part}\].*\n", text, re.MULTILINE)
    if header and added:
        text = text[: header.end()] + tomlkit.dumps(added) + text[header.end() :]
    recipe.parse(text.encode(), recipe_file.path)
    return text
