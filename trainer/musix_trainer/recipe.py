"""The recipe: every number that changes a model, read from TOML into frozen structs. Unknown keys are errors."""

import hashlib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from musix_runtime.bundle.manifest import NAME, VERSION
from musix_runtime.errors import RecipeError
from musix_runtime.models.ranker import COMPONENTS

Positive = Annotated[int, Meta(ge=1)]
UnitInterval = Annotated[float, Meta(ge=0, le=1)]
OpenUnit = Annotated[float, Meta(gt=0, lt=1)]
HalfOpenUnit = Annotated[float, Meta(gt=0, le=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the recipe."""


class Tables(Section, frozen=True):
    """File names in the data folder. Feedback is optional."""

    tracks: str = "tracks.parquet"
    listening: str = "listening.parquet"
    feedback: str | None = None


class Synthetic(Section, frozen=True):
    """Size of the embedded, simulated data set."""

    tracks: Positive = 3000
    listeners: Positive = 600


class Benchmark(Section, frozen=True):
    """Of a source of listening alone."""

    core: Positive = 5  # pairs that every listener and every artist has at least


class Tuned(Section, frozen=True):
    """How the values of `collab` and of the baselines were found: written by `musix tune`."""

    study: str = ""  # SHA-256 of the trials
    trials: dict[str, Positive] = {}  # of collab and of each baseline
    baselines: dict[str, dict[str, float]] = {}  # values found for them


class CatalogSection(Section, frozen=True):
    """What the catalogue itself computes."""

    freshness_half_life: PositiveFloat = 730.0  # days after which a release counts half as fresh
    popular: Positive = 1000  # tracks, one an artist, from which listeners of whom nothing is known are served


class Split(Section, frozen=True):
    """How listening is held out. By artist: an artist's tracks are held out together, as they must be when listening
    was derived from artists, since each track would give its siblings away. By one: of every listener one entry for
    validation and one for test (leave one out), whatever the shares say."""

    by: Literal["track", "artist", "leave_one_out"] = "track"
    validation: OpenUnit = 0.1
    test: OpenUnit = 0.1


class Genre(Section, frozen=True):
    """LightFM over artists and binned inputs, the shares of artists, letters of names and titles, XGBoost over inputs
    and these; averaged."""

    no_components: Positive = 50
    learning_schedule: Literal["adadelta", "adagrad"] = "adadelta"
    loss: Literal["bpr", "warp", "logistic"] = "bpr"
    k: Positive = 5
    epochs: Positive = 40
    artist_mask: UnitInterval = 0.2  # share of training tracks that LightFM sees once more without their artist
    stranger: UnitInterval = (
        0.5  # share of training tracks that XGBoost sees once more as of an artist whom nobody has met
    )
    bins: Positive = 20  # quantile bins of each input
    bin_weight: PositiveFloat = (
        0.01  # of a bin, beside the artists' 1: sound is XGBoost's task, and drowns the artist here
    )
    artist_prior: PositiveFloat = 0.4  # tracks that an artist's name counts for, beside those that it has
    letter_alpha: PositiveFloat = 3e-5  # regularisation of the logistic regression over the letters of names and titles
    max_depth: Positive = 7
    max_bin: Positive = 64  # of each feature in XGBoost: as good as 256, in half the time
    learning_rate: PositiveFloat = 0.1
    n_estimators: Positive = 200
    subsample: HalfOpenUnit = 0.8
    colsample_bytree: HalfOpenUnit = 0.8
    # One tree a round for all families, its leaves vectors: as good as one a family and round, and 16 times smaller.
    multi_strategy: Literal["multi_output_tree", "one_output_per_tree"] = "multi_output_tree"
    iqr: PositiveFloat = 1.5  # inputs are clipped this many interquartile ranges beyond the quartiles
    validation: OpenUnit = 0.1
    test: OpenUnit = 0.1


class Mood(Section, frozen=True):
    """The mood network."""

    hidden: tuple[Positive, Positive] = (64, 32)
    dropout: tuple[UnitInterval, UnitInterval] = (0.3, 0.2)
    learning_rate: PositiveFloat = 0.001
    batch: Positive = 32
    epochs: Positive = 50
    patience: Positive = 8
    validation: OpenUnit = 0.2


class Collab(Section, frozen=True):
    """LightFM over listening."""

    no_components: Positive = 50
    learning_schedule: Literal["adadelta", "adagrad"] = "adadelta"
    loss: Literal["bpr", "warp", "logistic"] = "bpr"
    learning_rate: PositiveFloat = 0.05  # adagrad only
    item_alpha: Annotated[float, Meta(ge=0)] = 0.0
    user_alpha: Annotated[float, Meta(ge=0)] = 0.0
    epochs: Positive = 100
    fold_in_ridge: PositiveFloat = 1.0
    taste_width: Positive = 48
    taste_damping: UnitInterval = 0.25  # how far tracks heard by many are held back in what listeners have in common


class Content(Section, frozen=True):
    """Weight of each block of the content vector, before the vector is scaled to length 1."""

    audio: PositiveFloat = 1.0
    genre: PositiveFloat = 1.0
    mood: PositiveFloat = 0.5
    popularity: PositiveFloat = 0.25


class Index(Section, frozen=True):
    """How vectors are searched: exactly where that fits the time, else only the clusters next to the query."""

    exact: Positive = 300_000  # numbers (vectors x width) up to which all are compared: some 0.03 ms
    recall: UnitInterval = 0.98  # of the exact nearest must be found; as many clusters are searched as that takes


class Ranker(Section, frozen=True):
    """The ranker network, and what the runtime does around it."""

    hidden: tuple[Positive, Positive] = (32, 16)
    learning_rate: PositiveFloat = 0.001
    batch: Positive = 64  # lists
    epochs: Positive = 50
    patience: Positive = 10
    validation: OpenUnit = 0.2
    negatives: Positive = 20  # impressions not taken up, for each that was, when feedback has to be derived
    candidates: Positive = 50
    pool: Positive = 60
    blend: dict[str, UnitInterval] = msgspec.field(
        default_factory=lambda: {"collab": 0.5, "content": 0.3, "preference": 0.0, "freshness": 0.1, "diversity": 0.1}
    )


class Bytes(Section, frozen=True):
    """The most bytes that the bundle's files may have: in all, and by part."""

    total: Positive | None = None
    catalog: Positive | None = None
    genre: Positive | None = None
    mood: Positive | None = None
    collab: Positive | None = None
    content: Positive | None = None
    ranker: Positive | None = None
    golden: Positive | None = None


class Memory(Section, frozen=True):
    """The most private memory that a process may hold once it has opened the bundle."""

    load_mb: PositiveFloat | None = None  # private, anonymous pages; those of mapped files are shared


class Time(Section, frozen=True):
    """The most that an answer may take, as a multiple of the bare kernels behind it, timed in the same run."""

    classify: PositiveFloat | None = None
    recommend: PositiveFloat | None = None
    similar: PositiveFloat | None = None


class Gates(Section, frozen=True):
    """What a bundle must reach to be built. Keys of `at_least` and `at_most` are those of the quality card."""

    at_least: dict[str, float] = msgspec.field(default_factory=dict)
    at_most: dict[str, float] = msgspec.field(default_factory=dict)
    bytes: Bytes = Bytes()
    memory: Memory = Memory()
    time: Time = Time()


class Recipe(Section, frozen=True):
    """A whole recipe: what to learn from, how, and under which name and version."""

    name: Annotated[str, Meta(pattern=NAME)]
    version: Annotated[str, Meta(pattern=VERSION)]
    source: Literal["synthetic", "tables", "lastfm"]
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    tables: Tables = Tables()
    synthetic: Synthetic = Synthetic()
    catalog: CatalogSection = CatalogSection()
    benchmark: Benchmark = Benchmark()
    split: Split = Split()
    genre: Genre = Genre()
    mood: Mood = Mood()
    collab: Collab = Collab()
    content: Content = Content()
    ranker: Ranker = Ranker()
    index: Index = Index()
    tuned: Tuned = Tuned()
    gates: Gates = Gates()

    @property
    def label(self) -> str:
        """`NAME-VERSION`, the name of the bundle folder."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe with the file and the bytes it was read from."""

    path: Path
    recipe: Recipe
    text: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


def read(path: Path) -> RecipeFile:
    """Read and check a recipe. Raises RecipeError that names the file, the key, what was expected and found."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: expected a recipe file, found: {error.strerror}") from error
    return parse(text, path)


def parse(text: bytes, path: Path) -> RecipeFile:
    """Check the text of a recipe. Raises RecipeError that names `path`, the key, what was expected and found."""
    try:
        raw = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: expected TOML, found: {error}") from error
    _check_keys(raw, Recipe, str(path))
    try:
        recipe = msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        message, _, key = str(error).partition(" - at `$")
        raise RecipeError(f"{path}: {key.strip('.`') or 'top level'}: {message[:1].lower()}{message[1:]}") from error
    if set(recipe.ranker.blend) != set(COMPONENTS):
        raise RecipeError(
            f"{path}: ranker.blend: expected {', '.join(COMPONENTS)}, found {', '.join(recipe.ranker.blend)}"
        )
    for section in ("split", "genre"):
        shares = getattr(recipe, section)
        if shares.validation + shares.test >= 1:
            raise RecipeError(
                f"{path}: {section}: expected validation + test below 1, found {shares.validation + shares.test:g}"
            )
    return RecipeFile(path, recipe, text)


def _check_finite(raw: dict[str, Any], where: str) -> None:
    for key, value in raw.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{where}: {key}: expected a finite number, found {value}")
        if isinstance(value, dict) and where.endswith((": at_least", ": at_most")):
            raise RecipeError(f'{where}: {key}: expected a path in quotes, such as "genre.macro_f1", found a table')


def _check_keys(raw: dict[str, Any], section: type[Section], where: str) -> None:
    _check_finite(raw, where)
    known = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in raw.items():
        if key not in known:
            raise RecipeError(f"{where}: {key}: unknown key; known here are {', '.join(known)}")
        if isinstance(value, dict) and isinstance(known[key], type) and issubclass(known[key], Section):
            _check_keys(value, known[key], f"{where}: {key}")
        elif isinstance(value, dict):
            _check_finite(value, f"{where}: {key}")
